import { Parser } from 'htmlparser2'
import { S3Error } from './errors.ts'

/** XML out: nested objects and lists become elements; text is escaped, and characters that XML cannot hold are left out. */
export type XmlValue = string | number | boolean | undefined | XmlValue[] | { readonly [name: string]: XmlValue }

export function toXml(name: string, value: XmlValue): string {
  return `<?xml version="1.0" encoding="UTF-8"?>\n${element(name, value, ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"')}`
}

function element(name: string, value: XmlValue, attributes = ''): string {
  if (value === undefined) return ''
  if (Array.isArray(value)) return value.map(item => element(name, item)).join('')
  const inner =
    typeof value === 'object'
      ? Object.entries(value)
          .map(([child, item]) => element(child, item))
          .join('')
      : escapeXml(String(value))
  return `<${name}${attributes}>${inner}</${name}>`
}

const escapeXml = (text: string): string =>
  text
    .replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f]/g, '')
    .replace(
      /[&<>"\r]/g,
      character => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', '\r': '&#13;' })[character]!,
    )

/** XML in: the texts of each `item` element's children, by name. For the two flat lists that S3 clients send. */
export function readXmlItems(xml: string, item: string): Map<string, string>[] {
  const items: Map<string, string>[] = []
  const path: string[] = []
  let closed = true
  const parser = new Parser(
    {
      onopentag: name => {
        path.push(name)
        closed = false
        if (name === item) items.push(new Map())
      },
      ontext: text => {
        const name = path.at(-1)
        if (path.at(-2) === item && name !== undefined) items.at(-1)!.set(name, (items.at(-1)!.get(name) ?? '') + text)
      },
      onclosetag: () => {
        path.pop()
        closed = path.length === 0
      },
    },
    { xmlMode: true, decodeEntities: true },
  )
  parser.end(xml)
  if (!closed || !xml.trimEnd().endsWith('>')) throw new S3Error('MalformedXML', 'The body is not well-formed XML.')
  return items
}
