import { open } from 'node:fs/promises'
import { extname } from 'node:path'
import { PercolateError } from '../../src/base/errors.ts'
import type { DocumentType } from './document.ts'
import { listZip } from './zip.ts'

const HEAD_BYTES = 64 * 1024

const byExtension: Record<string, DocumentType> = {
  '.pdf': 'pdf',
  '.docx': 'docx',
  '.xlsx': 'xlsx',
  '.csv': 'csv',
  '.tsv': 'csv',
  '.html': 'html',
  '.htm': 'html',
  '.xhtml': 'html',
  '.md': 'markdown',
  '.markdown': 'markdown',
  '.txt': 'text',
  '.text': 'text',
  '.log': 'text',
  '.rst': 'text',
  '.json': 'json',
  '.jsonl': 'json',
  '.ndjson': 'json',
}
const byContentType: Record<string, DocumentType> = {
  'application/pdf': 'pdf',
  'application/vnd.openxmlformats-officedocument.wordprocessingml.document': 'docx',
  'application/vnd.openxmlformats-officedocument.spreadsheetml.sheet': 'xlsx',
  'text/csv': 'csv',
  'text/tab-separated-values': 'csv',
  'text/html': 'html',
  'application/xhtml+xml': 'html',
  'text/markdown': 'markdown',
  'application/json': 'json',
  'application/x-ndjson': 'json',
}
/** Signatures of what people upload by mistake, to name it in the error. */
const foreign: [Buffer, string][] = [
  [Buffer.from('\x89PNG', 'latin1'), 'a PNG image'],
  [Buffer.from('\xff\xd8\xff', 'latin1'), 'a JPEG image'],
  [Buffer.from('GIF8'), 'a GIF image'],
  [Buffer.from('\x1f\x8b', 'latin1'), 'a gzip archive'],
  [Buffer.from('\x7fELF', 'latin1'), 'a program'],
  [Buffer.from('MZ'), 'a program'],
  [Buffer.from('ID3'), 'an MP3 recording'],
  [Buffer.from('OggS'), 'an Ogg recording'],
  [Buffer.from('RIFF'), 'a WAV, AVI or WebP file'],
  [Buffer.from('7z\xbc\xaf', 'latin1'), 'a 7-Zip archive'],
  [Buffer.from('Rar!'), 'a RAR archive'],
  [Buffer.from('{\\rtf'), 'an RTF document'],
]
/** How HTML begins, behind a byte order mark or an XML declaration. */
const HTML = /^\s*(?:<\?xml[^>]{0,200}>\s*)?(?:<!doctype html|<html)/i
const OLE = Buffer.from('d0cf11e0a1b11ae1', 'hex')

/**
 * Which parser a file needs, by its content; its name and declared type only decide between kinds of text. A file whose content contradicts
 * its name is refused with DOCUMENT_UNSUPPORTED.
 */
export async function detectType(path: string, name: string, contentType: string | null): Promise<DocumentType> {
  const head = await readHead(path)
  const extension = byExtension[extname(name).toLowerCase()]
  const claimed = extension ?? byContentType[(contentType ?? '').split(';')[0]!.trim().toLowerCase()]
  const actual = await detectContent(path, head, name, claimed)
  if (claimed === undefined || actual === claimed || (actual === 'text' && isTextual(claimed))) return claimed ?? actual
  throw new PercolateError(
    'DOCUMENT_UNSUPPORTED',
    `${name} says that it is ${claimed.toUpperCase()}, but its content is ${describe(actual)}; give it its right name.`,
  )
}

const isTextual = (type: DocumentType): boolean =>
  type === 'csv' || type === 'html' || type === 'markdown' || type === 'text' || type === 'json'
const describe = (type: DocumentType): string => (type === 'text' ? 'plain text' : type.toUpperCase())

async function detectContent(
  path: string,
  head: Buffer,
  name: string,
  claimed: DocumentType | undefined,
): Promise<DocumentType> {
  if (head.length === 0) throw new PercolateError('DOCUMENT_EMPTY', `${name} is empty.`)
  if (head.subarray(0, 1024).includes('%PDF-')) return 'pdf'
  if (head.subarray(0, 8).equals(OLE)) throw await oleError(path, name)
  if (head.subarray(0, 4).equals(Buffer.from('PK\x03\x04', 'latin1'))) return detectZip(path, name)
  const known = foreign.find(([signature]) => head.subarray(0, signature.length).equals(signature))
  if (known && !(known[1] === 'a program' && !isBinary(head))) throw unsupported(name, known[1])
  if (isBinary(head)) throw unsupported(name, 'binary data of a kind that no parser takes')
  // Of what claims to be a kind of text, its name says better which: Markdown may begin with HTML.
  if ((claimed === undefined || !isTextual(claimed)) && HTML.test(head.toString())) return 'html'
  return 'text'
}

async function detectZip(path: string, name: string): Promise<DocumentType> {
  const entries = await listZip(path, name)
  if (entries.some(entry => entry.encrypted))
    throw new PercolateError(
      'DOCUMENT_ENCRYPTED',
      `${name} is protected by a password; save it without one and upload it again.`,
    )
  const names = new Set(entries.map(entry => entry.name))
  if (names.has('word/document.xml')) return 'docx'
  if (names.has('xl/workbook.xml') || names.has('xl/workbook.bin')) return 'xlsx'
  throw unsupported(name, 'a ZIP archive that is neither DOCX nor XLSX')
}

/** Office encrypts into an OLE container; older Word and Excel files are OLE too. */
async function oleError(path: string, name: string): Promise<PercolateError> {
  const head = await readHead(path, 1024 * 1024)
  if (head.includes(Buffer.from('EncryptedPackage', 'utf16le'))) {
    return new PercolateError(
      'DOCUMENT_ENCRYPTED',
      `${name} is protected by a password; save it without one and upload it again.`,
    )
  }
  return unsupported(name, 'an Office file of the old binary kind; save it as DOCX or XLSX')
}

const unsupported = (name: string, what: string): PercolateError =>
  new PercolateError(
    'DOCUMENT_UNSUPPORTED',
    `${name} is ${what}; PDF, DOCX, XLSX, CSV, HTML, Markdown, plain text and JSON are taken.`,
  )

/** NULs outside UTF-16, or more control characters than text has. */
function isBinary(head: Buffer): boolean {
  if (isUtf16(head)) return false
  let control = 0
  for (const byte of head) {
    if (byte === 0) return true
    if (byte < 32 && byte !== 9 && byte !== 10 && byte !== 13 && byte !== 12 && byte !== 27) control++
  }
  return control > head.length / 100
}

export const isUtf16 = (head: Buffer): boolean =>
  head.length >= 2 && ((head[0] === 0xff && head[1] === 0xfe) || (head[0] === 0xfe && head[1] === 0xff))

async function readHead(path: string, bytes = HEAD_BYTES): Promise<Buffer> {
  const file = await open(path)
  try {
    const buffer = Buffer.alloc(bytes)
    const { bytesRead } = await file.read(buffer, 0, bytes, 0)
    return buffer.subarray(0, bytesRead)
  } finally {
    await file.close()
  }
}
