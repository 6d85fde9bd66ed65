import { createHash, type Hash } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import { Transform, type TransformCallback } from 'node:stream'
import { crc32 } from 'node:zlib'
import { S3Error } from './errors.ts'
import { chunkSignature, equal, type Verified } from './sigv4.ts'

/**
 * Turns a request body into the object's bytes and checks it on the way: plain bodies against their signed hash, `aws-chunked` ones chunk by
 * chunk, with signatures and checksum trailers. Nothing is held but the header of one chunk.
 * https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming-trailers.html
 */
export function bodyDecoder(request: IncomingMessage, verified: Verified): Transform {
  const checksums = declaredChecksums(request)
  if (verified.payloadHash.startsWith('STREAMING-')) return new ChunkedDecoder(request, verified, checksums)
  return new PlainBody(verified.payloadHash, checksums)
}

const HEADER_BYTES_MAX = 4096
const TRAILER_BYTES_MAX = 4096
const CHUNK_BYTES_MAX = 64 * 1024 * 1024

interface Checksum {
  update(bytes: Buffer): void
  /** Base64, as in S3's headers. */
  digest(): string
}

function checksum(algorithm: string): Checksum {
  if (algorithm === 'crc32') {
    let value = 0
    return {
      update: bytes => {
        value = crc32(bytes, value)
      },
      digest: () => {
        const out = Buffer.alloc(4)
        out.writeUInt32BE(value >>> 0)
        return out.toString('base64')
      },
    }
  }
  if (algorithm === 'sha1' || algorithm === 'sha256') {
    const hash: Hash = createHash(algorithm)
    return { update: bytes => void hash.update(bytes), digest: () => hash.digest('base64') }
  }
  throw new S3Error('NotImplemented', `Checksums of type ${algorithm} are not checked here; use CRC32, SHA1 or SHA256.`)
}

interface Declared {
  readonly algorithm: string
  readonly checksum: Checksum
  /** Undefined when the value comes in the trailer. */
  readonly expected: string | undefined
}

function declaredChecksums(request: IncomingMessage): Declared[] {
  const declared: Declared[] = []
  for (const [name, value] of Object.entries(request.headers)) {
    const match = /^x-amz-checksum-(crc32|crc32c|sha1|sha256|crc64nvme)$/.exec(name)
    if (match) declared.push({ algorithm: match[1]!, checksum: checksum(match[1]!), expected: String(value) })
  }
  const trailer = /^x-amz-checksum-(\w+)$/.exec(String(request.headers['x-amz-trailer'] ?? ''))
  if (trailer) declared.push({ algorithm: trailer[1]!, checksum: checksum(trailer[1]!), expected: undefined })
  const md5 = request.headers['content-md5']
  if (md5 !== undefined) {
    const hash = createHash('md5')
    declared.push({
      algorithm: 'md5',
      checksum: { update: bytes => void hash.update(bytes), digest: () => hash.digest('base64') },
      expected: String(md5),
    })
  }
  return declared
}

function verifyChecksums(declared: readonly Declared[], trailers: ReadonlyMap<string, string>): void {
  for (const { algorithm, checksum: computed, expected } of declared) {
    const wanted = expected ?? trailers.get(`x-amz-checksum-${algorithm}`)
    if (wanted === undefined) throw new S3Error('IncompleteBody', `The trailer x-amz-checksum-${algorithm} is missing.`)
    if (computed.digest() !== wanted)
      throw new S3Error('BadDigest', `The ${algorithm} checksum does not match the body.`)
  }
}

class PlainBody extends Transform {
  readonly #hash: Hash | undefined
  readonly #expected: string
  readonly #checksums: readonly Declared[]

  constructor(payloadHash: string, checksums: readonly Declared[]) {
    super()
    this.#hash = payloadHash === 'UNSIGNED-PAYLOAD' ? undefined : createHash('sha256')
    this.#expected = payloadHash
    this.#checksums = checksums
  }

  override _transform(bytes: Buffer, _encoding: BufferEncoding, done: TransformCallback): void {
    this.#hash?.update(bytes)
    for (const { checksum: computed } of this.#checksums) computed.update(bytes)
    done(null, bytes)
  }

  override _flush(done: TransformCallback): void {
    try {
      if (this.#hash && this.#hash.digest('hex') !== this.#expected)
        throw new S3Error('XAmzContentSHA256Mismatch', 'The body does not match x-amz-content-sha256.')
      verifyChecksums(this.#checksums, new Map())
      done()
    } catch (error) {
      done(error as Error)
    }
  }
}

/** Modes: *header* (reading a chunk's size line) → *data* → *crlf* → *header* …, after the chunk of size 0 *trailer*, then *end*. */
class ChunkedDecoder extends Transform {
  readonly #verified: Verified
  readonly #checksums: readonly Declared[]
  readonly #signed: boolean
  readonly #expectedBytes: number | undefined
  #mode: 'header' | 'data' | 'crlf' | 'trailer' | 'end' = 'header'
  #buffered = Buffer.alloc(0)
  #left = 0
  #total = 0
  #signature: string
  #claimed = ''
  #chunkHash = createHash('sha256')

  constructor(request: IncomingMessage, verified: Verified, checksums: readonly Declared[]) {
    super()
    this.#verified = verified
    this.#checksums = checksums
    this.#signed = verified.payloadHash.startsWith('STREAMING-AWS4-HMAC-SHA256-PAYLOAD')
    if (!this.#signed && verified.payloadHash !== 'STREAMING-UNSIGNED-PAYLOAD-TRAILER')
      throw new S3Error('NotImplemented', `${verified.payloadHash} is not supported.`)
    this.#signature = verified.seedSignature
    const declared = request.headers['x-amz-decoded-content-length']
    this.#expectedBytes = declared === undefined ? undefined : Number(declared)
  }

  override _transform(bytes: Buffer, _encoding: BufferEncoding, done: TransformCallback): void {
    try {
      this.#consume(bytes)
      done()
    } catch (error) {
      done(error as Error)
    }
  }

  override _flush(done: TransformCallback): void {
    try {
      if (this.#mode === 'trailer') this.#finishTrailers()
      if (this.#mode !== 'end') throw new S3Error('IncompleteBody', 'The body ends before its last chunk.')
      if (this.#expectedBytes !== undefined && this.#expectedBytes !== this.#total)
        throw new S3Error('IncompleteBody', 'The body is not as long as x-amz-decoded-content-length says.')
      done()
    } catch (error) {
      done(error as Error)
    }
  }

  #consume(input: Buffer): void {
    let bytes = this.#buffered.length > 0 ? Buffer.concat([this.#buffered, input]) : input
    this.#buffered = Buffer.alloc(0)
    while (bytes.length > 0) {
      if (this.#mode === 'data') {
        const part = bytes.subarray(0, this.#left)
        this.#data(part)
        bytes = bytes.subarray(part.length)
        continue
      }
      if (this.#mode === 'end') return
      if (this.#mode === 'trailer') {
        this.#keep(bytes, TRAILER_BYTES_MAX)
        return
      }
      const end = bytes.indexOf('\r\n')
      if (end < 0) {
        this.#keep(bytes, HEADER_BYTES_MAX)
        return
      }
      const line = bytes.subarray(0, end).toString('latin1')
      bytes = bytes.subarray(end + 2)
      if (this.#mode === 'crlf') {
        if (line !== '') throw new S3Error('IncompleteBody', 'A chunk is longer than its size says.')
        this.#mode = 'header'
      } else this.#header(line)
    }
  }

  #keep(bytes: Buffer, max: number): void {
    if (bytes.length > max) throw new S3Error('InvalidRequest', 'A chunk header or trailer is too long.')
    this.#buffered = Buffer.from(bytes)
  }

  #header(line: string): void {
    const match = /^([0-9a-fA-F]{1,8})(?:;chunk-signature=([0-9a-f]{64}))?$/.exec(line)
    if (!match || (this.#signed && !match[2])) throw new S3Error('InvalidRequest', 'A chunk header is malformed.')
    this.#left = Number.parseInt(match[1]!, 16)
    if (this.#left > CHUNK_BYTES_MAX) throw new S3Error('InvalidRequest', 'A chunk is too large.')
    this.#claimed = match[2] ?? ''
    this.#chunkHash = createHash('sha256')
    if (this.#left > 0) {
      this.#mode = 'data'
      return
    }
    this.#endChunk()
    this.#mode = 'trailer'
  }

  #data(part: Buffer): void {
    this.#left -= part.length
    this.#total += part.length
    if (this.#signed) this.#chunkHash.update(part)
    for (const { checksum: computed } of this.#checksums) computed.update(part)
    this.push(part)
    if (this.#left === 0) {
      this.#endChunk()
      this.#mode = 'crlf'
    }
  }

  #endChunk(): void {
    if (!this.#signed) return
    const expected = chunkSignature(this.#verified, this.#signature, this.#chunkHash.digest('hex'))
    if (!equal(expected, this.#claimed))
      throw new S3Error('SignatureDoesNotMatch', "A chunk's signature does not match.")
    this.#signature = expected
  }

  #finishTrailers(): void {
    const trailers = new Map<string, string>()
    for (const line of this.#buffered.toString('latin1').split('\r\n')) {
      const at = line.indexOf(':')
      if (at > 0) trailers.set(line.slice(0, at).trim().toLowerCase(), line.slice(at + 1).trim())
    }
    verifyChecksums(this.#checksums, trailers)
    this.#mode = 'end'
  }
}
