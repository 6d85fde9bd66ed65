import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { errorMessage } from '../../base/errors.ts'
import { bodyRefusal, gatherBodies } from '../../base/gathered-bodies.ts'
import { closeBehindHalf, expectsTooMuch, takeExpectations } from '../../base/linger.ts'
import { listenError } from '../../base/listen-error.ts'
import type { Logger } from '../../base/logger.ts'
import { bodyDecoder } from './body.ts'
import { S3Error } from './errors.ts'
import { listObjects } from './list.ts'
import { isDiskFull, storageFull } from './room.ts'
import { type Credentials, type RawUrl, type Verified, verify } from './sigv4.ts'
import { DiskStore, type StoredObject } from './store.ts'
import { readXmlItems, toXml, type XmlValue } from './xml.ts'

export interface EmbeddedS3Options extends Credentials {
  readonly folder: string
  readonly host: string
  /** 0 takes a free one. */
  readonly port: number
  /** Free bytes of the disk that objects are not to take: above the reserve of the databases beside them, so that an upload ends before their writes do. */
  readonly reserveBytes: number
  readonly logger: Logger
}

export interface EmbeddedS3 {
  readonly endpoint: string
  stop(): Promise<void>
}

interface Context {
  readonly store: DiskStore
  readonly request: IncomingMessage
  readonly response: ServerResponse
  readonly url: RawUrl
  readonly verified: Verified
}

const KEY_BYTES_MAX = 1024
const XML_BYTES_MAX = 2 * 1024 * 1024
const PUT_BYTES_MAX = 5 * 1024 ** 3
const PARTS_MAX = 10_000
const BUCKET_PATTERN = /^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/
/** Headers kept with an object and given back with it. */
const KEPT_HEADERS =
  /^(content-type|content-disposition|content-encoding|content-language|cache-control|expires|x-amz-meta-.+)$/

/** Objects stop at twice the reserve of the databases on the same disk: an upload that fills it takes none of what their writes need while it is refused and removed. */
export const objectReserveBytes = ({ diskReserveBytes }: { readonly diskReserveBytes: number }): number =>
  2 * diskReserveBytes

/**
 * A real S3 endpoint on disk, for one machine: path style, Signature V4, multipart, ranges, conditional requests, listing. It streams to disk
 * and never holds a part in memory. `tests/contract/s3.ts` says what it promises; any other S3 must pass the same.
 */
export async function startEmbeddedS3(options: EmbeddedS3Options): Promise<EmbeddedS3> {
  const store = await DiskStore.open(options.folder, options.reserveBytes)
  const server = createServer({ keepAliveTimeout: 30_000, requestTimeout: 0 }, (request, response) => {
    void respond(store, options, request, response)
  })
  gatherBodies(server)
  takeExpectations(server)
  try {
    await listen(server, options.host, options.port)
  } catch (error) {
    await store.close()
    throw listenError(error, options.host, options.port, 'PERCOLATE_S3_PORT')
  }
  const { port } = server.address() as AddressInfo
  return {
    endpoint: `http://${options.host}:${port}`,
    stop: async () => {
      server.closeIdleConnections()
      setTimeout(() => server.closeAllConnections(), 2000).unref()
      await new Promise<void>(resolve => server.close(() => resolve()))
      await store.close()
    },
  }
}

function listen(server: Server, host: string, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, host, () => {
      server.off('error', reject)
      resolve()
    })
  })
}

async function respond(
  store: DiskStore,
  options: EmbeddedS3Options,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  try {
    if (expectsTooMuch(request)) throw new S3Error('ExpectationFailed', 'Expect takes only 100-continue.')
    const [rawPath = '/', query = ''] = (request.url ?? '/').split(/\?(.*)/s)
    const url: RawUrl = { rawPath, searchParams: new URLSearchParams(query) }
    const verified = verify(request, url, options, Date.now())
    await route({ store, request, response, url, verified })
  } catch (error) {
    const known =
      error instanceof S3Error
        ? error
        : bodyRefusal(request)
          ? new S3Error('InvalidRequest', bodyRefusal(request)!.message)
          : isDiskFull(error)
            ? storageFull()
            : new S3Error('InternalError', 'The server failed.')
    if (known.code === 'InternalError' && !request.destroyed)
      options.logger.error({ err: errorMessage(error) }, 'embedded S3 failed')
    sendError(request, response, known)
  }
}

function sendError(request: IncomingMessage, response: ServerResponse, error: S3Error): void {
  if (response.headersSent) {
    response.destroy()
    return
  }
  // What is left of the body is not read: the connection ends with the answer. A client that is not at fault would hear of that before it hears the answer, so here the body is read to its end and dropped.
  const isRead = request.complete || error.code === 'InsufficientStorage'
  if (isRead && !request.complete) request.unpipe().resume()
  else closeBehindHalf(request, response)
  const body =
    request.method === 'HEAD' || error.status === 304
      ? undefined
      : toXml('Error', { Code: error.code, Message: error.message })
  response.writeHead(error.status, body ? { 'content-type': 'application/xml' } : {})
  response.end(body)
}

function parsePath(rawPath: string): { bucket: string; key: string } {
  let path: string
  try {
    path = decodeURIComponent(rawPath.slice(1))
  } catch {
    throw new S3Error('InvalidArgument', 'The path is not valid percent-encoding.')
  }
  const slash = path.indexOf('/')
  const bucket = slash < 0 ? path : path.slice(0, slash)
  const key = slash < 0 ? '' : path.slice(slash + 1)
  if (bucket !== '' && !BUCKET_PATTERN.test(bucket))
    throw new S3Error('InvalidBucketName', 'The bucket name is not valid.')
  if (Buffer.byteLength(key) > KEY_BYTES_MAX) throw new S3Error('KeyTooLongError', 'The key is longer than 1024 bytes.')
  return { bucket, key }
}

async function route(context: Context): Promise<void> {
  const { request, url } = context
  const { bucket, key } = parsePath(url.rawPath)
  const has = (name: string) => url.searchParams.has(name)
  if (bucket === '') {
    if (request.method === 'GET') return listBuckets(context)
  } else if (key === '') {
    if (request.method === 'PUT') return createBucket(context, bucket)
    await context.store.checkBucket(bucket)
    if (request.method === 'HEAD') return send(context, 200)
    if (request.method === 'DELETE') return deleteBucket(context, bucket)
    if (request.method === 'POST' && has('delete')) return deleteObjects(context, bucket)
    if (request.method === 'GET' && has('uploads')) return listUploads(context, bucket)
    if (request.method === 'GET' && has('location')) return sendXml(context, 'LocationConstraint', '')
    if (request.method === 'GET')
      return sendXml(context, 'ListBucketResult', await listObjects(context.store, bucket, url.searchParams))
  } else {
    await context.store.checkBucket(bucket)
    if (request.method === 'PUT' && has('partNumber')) return putPart(context, bucket, key)
    if (request.method === 'PUT' && request.headers['x-amz-copy-source'] !== undefined)
      return copyObject(context, bucket, key)
    if (request.method === 'PUT') return putObject(context, bucket, key)
    if (request.method === 'POST' && has('uploads')) return createUpload(context, bucket, key)
    if (request.method === 'POST' && has('uploadId')) return completeUpload(context, bucket, key)
    if (request.method === 'DELETE' && has('uploadId')) return abortUpload(context, bucket, key)
    if (request.method === 'DELETE') return deleteObject(context, bucket, key)
    if (request.method === 'GET' && has('uploadId')) return listParts(context, bucket, key)
    if (request.method === 'GET' || request.method === 'HEAD') return getObject(context, bucket, key)
  }
  throw new S3Error('MethodNotAllowed', 'This endpoint does not offer that operation.')
}

async function listBuckets(context: Context): Promise<void> {
  const buckets = await context.store.buckets()
  sendXml(context, 'ListAllMyBucketsResult', {
    Buckets: {
      Bucket: buckets.map(({ name, createdAtMs }) => ({
        Name: name,
        CreationDate: new Date(createdAtMs).toISOString(),
      })),
    },
  })
}

async function createBucket(context: Context, bucket: string): Promise<void> {
  await drain(context)
  await context.store.createBucket(bucket)
  send(context, 200, { location: `/${bucket}` })
}

async function deleteBucket(context: Context, bucket: string): Promise<void> {
  await context.store.deleteBucket(bucket)
  send(context, 204)
}

async function putObject(context: Context, bucket: string, key: string): Promise<void> {
  const ifNoneMatch = context.request.headers['if-none-match']
  if (ifNoneMatch !== undefined && ifNoneMatch !== '*')
    throw new S3Error('NotImplemented', 'If-None-Match takes only *.')
  checkLength(context)
  const { file, bytes, md5 } = await receive(context)
  const object: StoredObject = {
    etag: md5,
    bytes,
    modifiedAtMs: Date.now(),
    headers: keptHeaders(context.request),
    extents: bytes > 0 ? [{ file, bytes }] : [],
  }
  try {
    await context.store.putObject(bucket, key, object, ifNoneMatch === '*')
  } catch (error) {
    await context.store.dropFile(file)
    throw error
  }
  if (bytes === 0) await context.store.dropFile(file)
  send(context, 200, { etag: `"${md5}"` })
}

async function copyObject(context: Context, bucket: string, key: string): Promise<void> {
  const source = parsePath(
    `/${String(context.request.headers['x-amz-copy-source']).replace(/^\//, '').replace(/\?.*$/, '')}`,
  )
  await drain(context)
  await context.store.checkBucket(source.bucket)
  const object = await context.store.object(source.bucket, source.key)
  if (!object) throw new S3Error('NoSuchKey', 'The key to copy does not exist.')
  const { file, bytes, md5 } = await context.store.writeFile(
    () => context.store.read(object, 0, object.bytes - 1),
    object.bytes,
  )
  const headers =
    context.request.headers['x-amz-metadata-directive'] === 'REPLACE' ? keptHeaders(context.request) : object.headers
  const copy: StoredObject = { etag: md5, bytes, modifiedAtMs: Date.now(), headers, extents: [{ file, bytes }] }
  await context.store.putObject(bucket, key, copy, false)
  sendXml(context, 'CopyObjectResult', { LastModified: new Date(copy.modifiedAtMs).toISOString(), ETag: `"${md5}"` })
}

async function getObject(context: Context, bucket: string, key: string): Promise<void> {
  const object = await context.store.object(bucket, key)
  if (!object) throw new S3Error('NoSuchKey', 'The key does not exist.')
  const { request, response } = context
  const etag = `"${object.etag}"`
  const { 'if-match': ifMatch, 'if-none-match': ifNoneMatch } = request.headers
  if (ifMatch !== undefined && ifMatch !== '*' && ifMatch !== etag)
    throw new S3Error('PreconditionFailed', 'The ETag does not match.')
  if (ifNoneMatch !== undefined && (ifNoneMatch === '*' || ifNoneMatch === etag))
    throw new S3Error('NotModified', 'Not modified.')
  const range = parseRange(request.headers.range, object.bytes)
  const [start, end] = range ?? [0, object.bytes - 1]
  response.writeHead(range ? 206 : 200, {
    'content-type': 'binary/octet-stream',
    ...object.headers,
    'content-length': end - start + 1,
    'accept-ranges': 'bytes',
    etag,
    'last-modified': new Date(object.modifiedAtMs).toUTCString(),
    ...(range ? { 'content-range': `bytes ${start}-${end}/${object.bytes}` } : {}),
  })
  if (request.method === 'HEAD') response.end()
  else await pipeline(context.store.read(object, start, end), response)
}

function parseRange(text: string | undefined, bytes: number): [number, number] | undefined {
  const match = /^bytes=(\d*)-(\d*)$/.exec(text ?? '')
  if (!match || (match[1] === '' && match[2] === '')) return undefined
  const [start, end] =
    match[1] === ''
      ? [Math.max(0, bytes - Number(match[2])), bytes - 1]
      : [Number(match[1]), match[2] === '' ? bytes - 1 : Math.min(Number(match[2]), bytes - 1)]
  if (start > end || start >= bytes) throw new S3Error('InvalidRange', 'The range lies outside the object.')
  return [start, end]
}

async function deleteObject(context: Context, bucket: string, key: string): Promise<void> {
  await context.store.deleteObject(bucket, key)
  send(context, 204)
}

async function deleteObjects(context: Context, bucket: string): Promise<void> {
  const body = await readText(context)
  const items = readXmlItems(body, 'Object')
  if (items.length === 0 || items.length > 1000) throw new S3Error('MalformedXML', 'Name 1 to 1000 objects.')
  const keys = items.map(item => item.get('Key') ?? '')
  for (const key of keys) await context.store.deleteObject(bucket, key)
  sendXml(
    context,
    'DeleteResult',
    /<Quiet>true<\/Quiet>/.test(body) ? {} : { Deleted: keys.map(key => ({ Key: key })) },
  )
}

async function createUpload(context: Context, bucket: string, key: string): Promise<void> {
  await drain(context)
  const uploadId = await context.store.createUpload(bucket, key, keptHeaders(context.request))
  sendXml(context, 'InitiateMultipartUploadResult', { Bucket: bucket, Key: key, UploadId: uploadId })
}

async function putPart(context: Context, bucket: string, key: string): Promise<void> {
  const number = Number(context.url.searchParams.get('partNumber'))
  if (!Number.isInteger(number) || number < 1 || number > PARTS_MAX)
    throw new S3Error('InvalidArgument', `partNumber must be 1 to ${PARTS_MAX}.`)
  const uploadId = context.url.searchParams.get('uploadId') ?? ''
  await context.store.parts(bucket, key, uploadId)
  checkLength(context)
  const { file, bytes, md5 } = await receive(context)
  try {
    await context.store.putPart(bucket, key, uploadId, number, { file, bytes, etag: md5, modifiedAtMs: Date.now() })
  } catch (error) {
    await context.store.dropFile(file)
    throw error
  }
  send(context, 200, { etag: `"${md5}"` })
}

async function completeUpload(context: Context, bucket: string, key: string): Promise<void> {
  const items = readXmlItems(await readText(context), 'Part')
  if (items.length === 0 || items.length > PARTS_MAX) throw new S3Error('MalformedXML', 'Name at least one part.')
  const wanted = items.map(item => ({ number: Number(item.get('PartNumber')), etag: item.get('ETag') ?? '' }))
  const uploadId = context.url.searchParams.get('uploadId') ?? ''
  const object = await context.store.completeUpload(
    bucket,
    key,
    uploadId,
    wanted,
    context.request.headers['if-none-match'] === '*',
  )
  sendXml(context, 'CompleteMultipartUploadResult', { Bucket: bucket, Key: key, ETag: `"${object.etag}"` })
}

async function abortUpload(context: Context, bucket: string, key: string): Promise<void> {
  await context.store.abortUpload(bucket, key, context.url.searchParams.get('uploadId') ?? '')
  send(context, 204)
}

async function listParts(context: Context, bucket: string, key: string): Promise<void> {
  const uploadId = context.url.searchParams.get('uploadId') ?? ''
  const parts = await context.store.parts(bucket, key, uploadId)
  const after = Number(context.url.searchParams.get('part-number-marker') ?? 0)
  const max = Math.min(1000, Number(context.url.searchParams.get('max-parts') ?? 1000))
  const above = [...parts].filter(([number]) => number > after)
  const page = above.slice(0, max)
  sendXml(context, 'ListPartsResult', {
    Bucket: bucket,
    Key: key,
    UploadId: uploadId,
    PartNumberMarker: after,
    NextPartNumberMarker: page.at(-1)?.[0] ?? 0,
    MaxParts: max,
    IsTruncated: above.length > page.length,
    Part: page.map(([number, part]) => ({
      PartNumber: number,
      LastModified: new Date(part.modifiedAtMs).toISOString(),
      ETag: `"${part.etag}"`,
      Size: part.bytes,
    })),
  })
}

async function listUploads(context: Context, bucket: string): Promise<void> {
  const uploads = await context.store.uploads(bucket)
  sendXml(context, 'ListMultipartUploadsResult', {
    Bucket: bucket,
    IsTruncated: false,
    Upload: uploads.map(({ key, uploadId, startedAtMs }) => ({
      Key: key,
      UploadId: uploadId,
      Initiated: new Date(startedAtMs).toISOString(),
    })),
  })
}

/** As the client says; 0 when it does not. */
const lengthOf = (request: IncomingMessage): number =>
  Number(request.headers['x-amz-decoded-content-length'] ?? request.headers['content-length'] ?? 0) || 0

function checkLength({ request }: Context): void {
  const length = lengthOf(request)
  if (length > PUT_BYTES_MAX) throw new S3Error('EntityTooLarge', 'A single put takes at most 5 GiB.')
}

/** The bytes of the body; it fails when the body ends early. */
function decoded({ request, verified }: Context): Readable {
  const decoder = bodyDecoder(request, verified)
  const gone = () => decoder.destroy(new S3Error('IncompleteBody', 'The client went away.'))
  request.on('error', error => decoder.destroy(error))
  request.on('aborted', gone)
  // It may have gone, or been refused, before this was listened for.
  const refusal = bodyRefusal(request)
  if (refusal) decoder.destroy(refusal)
  else if (request.destroyed && !request.complete) gone()
  return request.pipe(decoder)
}

/** A body that ends early leaves nothing: `pipeline` fails, and the file is removed. */
const receive = (context: Context): Promise<{ file: string; bytes: number; md5: string }> =>
  context.store.writeFile(() => decoded(context), lengthOf(context.request))

async function readText(context: Context): Promise<string> {
  const chunks: Buffer[] = []
  let bytes = 0
  for await (const chunk of decoded(context) as AsyncIterable<Buffer>) {
    bytes += chunk.length
    if (bytes > XML_BYTES_MAX) throw new S3Error('MalformedXML', 'The body is too large.')
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString()
}

async function drain(context: Context): Promise<void> {
  await readText(context)
}

function keptHeaders(request: IncomingMessage): { [name: string]: string } {
  const kept: { [name: string]: string } = {}
  for (const [name, value] of Object.entries(request.headers)) {
    if (KEPT_HEADERS.test(name) && typeof value === 'string') kept[name] = value
  }
  // `aws-chunked` is how the body travelled, not what the object is.
  const encoding = kept['content-encoding']
    ?.split(',')
    .map(part => part.trim())
    .filter(part => part !== 'aws-chunked')
    .join(', ')
  if (encoding) kept['content-encoding'] = encoding
  else delete kept['content-encoding']
  return kept
}

function send({ response }: Context, status: number, headers: Record<string, string> = {}): void {
  response.writeHead(status, { 'content-length': 0, ...headers })
  response.end()
}

function sendXml({ response }: Context, name: string, value: XmlValue): void {
  const body = toXml(name, value)
  response.writeHead(200, { 'content-type': 'application/xml', 'content-length': Buffer.byteLength(body) })
  response.end(body)
}
