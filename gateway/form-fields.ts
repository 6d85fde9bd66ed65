import { isUtf8 } from 'node:buffer'
import type { MultipartFile } from '@fastify/multipart'
import { PercolateError } from '../src/base/errors.ts'
import { CATEGORY_BYTES_MAX, METADATA_BYTES_MAX, URI_BYTES_MAX } from '../src/base/limits.ts'

/** UTF-8 bytes of `metadata`, as JSON: what chunks add of their own has room beside it in each record. */
export const FORM_METADATA_BYTES_MAX = METADATA_BYTES_MAX / 2

/** The parts of a form beside its file, and the bytes that each may have. */
const FIELDS = {
  uri: URI_BYTES_MAX,
  category: CATEGORY_BYTES_MAX,
  metadata: FORM_METADATA_BYTES_MAX,
} as const

export type FieldName = keyof typeof FIELDS
const names = Object.keys(FIELDS)

/** What an upload may be made of, for errors. */
export const KNOWN_PARTS = `file, ${names.join(', ')}`
/** Parts that a form may have: its file, and one of each field. */
export const PARTS_MAX = names.length + 1
/** Characters of a part's name that an error shows. */
const NAME_CHARS_MAX = 100

/** Whether a part is a file for HTML forms (https://www.rfc-editor.org/rfc/rfc7578#section-4.2). */
export const isFile = ({ filename, mimetype }: MultipartFile): boolean =>
  filename !== undefined || mimetype === 'application/octet-stream'

/** The fields of one form, each as its text and no longer than it may be: an upload that waits for its file holds nothing else of it. */
export class FormFields {
  readonly #texts = new Map<FieldName, string>()

  get(name: FieldName): string | undefined {
    return this.#texts.get(name)
  }

  /** Reads a part to its end. Throws INVALID_ARGUMENT as soon as it is known that it is not taken: it is none of an upload, came before, or is too large. */
  async take(part: MultipartFile): Promise<void> {
    const name = knownName(part.fieldname)
    if (this.#texts.has(name)) throw invalid(name, 'is there twice; send it once.')
    const text = await readText(part, name)
    this.#texts.set(name, name === 'metadata' ? text : plainText(part, name, text))
  }
}

function knownName(raw: string | undefined): FieldName {
  if (raw !== undefined && Object.hasOwn(FIELDS, raw)) return raw as FieldName
  const name = raw?.slice(0, NAME_CHARS_MAX) ?? ''
  if (name === '') throw invalid('name', `is missing from a part of the form; there are ${KNOWN_PARTS}.`)
  throw invalid(name, `is not a known part of an upload; there are ${KNOWN_PARTS}.`)
}

async function readText({ file }: MultipartFile, name: FieldName): Promise<string> {
  const bytesMax = FIELDS[name]
  const pieces: Buffer[] = []
  let bytes = 0
  for await (const piece of file as AsyncIterable<Buffer>) {
    bytes += piece.length
    if (bytes > bytesMax) throw invalid(name, `is larger than ${bytesMax} bytes; send less.`)
    pieces.push(piece)
  }
  const whole = Buffer.concat(pieces)
  if (!isUtf8(whole)) throw invalid(name, 'is not valid UTF-8; encode it as UTF-8.')
  return whole.toString()
}

/** Some clients send every field as JSON (`;type=application/json`): text comes in quotes then. */
function plainText({ mimetype }: MultipartFile, name: FieldName, text: string): string {
  if (mimetype !== 'application/json') return text
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    value = undefined
  }
  if (typeof value !== 'string') throw invalid(name, 'came as JSON, and is no string; send it as text.')
  return value
}

const invalid = (field: string, why: string): PercolateError =>
  new PercolateError('INVALID_ARGUMENT', `${field} ${why}`, { field })
