import { type Entry, openPromise, type ZipFile } from 'yauzl'
import { PercolateError } from '../../src/base/errors.ts'

export interface ZipEntry {
  readonly name: string
  readonly bytes: number
  readonly encrypted: boolean
}

const ENTRIES_MAX = 10_000

export async function listZip(path: string, name: string): Promise<ZipEntry[]> {
  const entries: ZipEntry[] = []
  await eachEntry(path, name, entry => {
    entries.push({
      name: entry.fileName,
      bytes: entry.uncompressedSize,
      encrypted: (entry.generalPurposeBitFlag & 1) === 1,
    })
  })
  return entries
}

/**
 * Unpacks every entry to nowhere and counts, so that no parser meets a zip bomb: what entries declare is checked first, what they
 * really unpack to after, with nothing kept.
 */
export async function checkZip(path: string, name: string, bytesMax: number): Promise<void> {
  const tooCostly = () =>
    new PercolateError(
      'DOCUMENT_TOO_COSTLY',
      `${name} unpacks to more than ${bytesMax} bytes (PERCOLATE_PARSE_BYTES_MAX).`,
    )
  const declared = (await listZip(path, name)).reduce((sum, { bytes }) => sum + bytes, 0)
  if (declared > bytesMax) throw tooCostly()
  let total = 0
  await eachEntry(path, name, async (entry, zip) => {
    if (entry.fileName.endsWith('/')) return
    const stream = await zip.openReadStreamPromise(entry)
    for await (const chunk of stream as AsyncIterable<Buffer>) {
      total += chunk.length
      if (total > bytesMax) {
        stream.destroy()
        throw tooCostly()
      }
    }
  })
}

async function eachEntry(
  path: string,
  name: string,
  visit: (entry: Entry, zip: ZipFile) => Promise<void> | void,
): Promise<void> {
  let zip: ZipFile | undefined
  try {
    zip = await openPromise(path, { lazyEntries: true, autoClose: false, validateEntrySizes: true })
    if (zip.entryCount > ENTRIES_MAX)
      throw new PercolateError(
        'DOCUMENT_TOO_COSTLY',
        `${name} has ${zip.entryCount} parts; at most ${ENTRIES_MAX} are unpacked.`,
      )
    for await (const entry of zip.eachEntry()) await visit(entry, zip)
  } catch (error) {
    if (error instanceof PercolateError) throw error
    throw new PercolateError('DOCUMENT_DAMAGED', `${name} is a damaged or truncated archive.`, { cause: error })
  } finally {
    zip?.close()
  }
}
