import multipart, { type MultipartFile } from '@fastify/multipart'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { checkObject } from '../src/base/check-object.ts'
import { cleanLine } from '../src/base/clean-text.ts'
import { PercolateError } from '../src/base/errors.ts'
import type { FairSemaphore } from '../src/base/fair-semaphore.ts'
import { bodyRefusal } from '../src/base/gathered-bodies.ts'
import { checkId, derivedId, type TenantId, timedId } from '../src/base/ids.ts'
import { CATEGORY_BYTES_MAX, NAME_BYTES_MAX, URI_BYTES_MAX } from '../src/base/limits.ts'
import type { Logger } from '../src/base/logger.ts'
import type { Time } from '../src/base/time.ts'
import { timeoutSignal } from '../src/base/timeout.ts'
import { formatClock } from '../src/clock/hlc.ts'
import type { Jobs } from '../src/jobs/jobs.ts'
import type { JobRecord } from '../src/jobs/model.ts'
import type { ObjectStore } from '../src/objects/port.ts'
import type { BusyUploads } from './busy-uploads.ts'
import { FORM_METADATA_BYTES_MAX, FormFields, isFile, KNOWN_PARTS, PARTS_MAX } from './form-fields.ts'
import { boundaryOf, FormParts } from './form-parts.ts'
import { Pace } from './pace.ts'
import { firstBytes, meter, type Received } from './receive.ts'

export interface UploadOptions {
  readonly objects: ObjectStore
  readonly jobs: Jobs
  readonly time: Time
  readonly logger: Logger
  /** Uploads that the gateway deals with at all, silent ones included; one more is refused. */
  readonly doors: FairSemaphore
  /** Uploads whose file streams at once; the others wait, and their clients feel it as back-pressure. */
  readonly places: FairSemaphore
  /** Who of them gives way to those who wait. */
  readonly busy: BusyUploads
  readonly bytesMax: number
  readonly idleMs: number
  readonly bytesPerSecondMin: number
  readonly bytesPerSecondMinWhenBusy: number
  readonly uploadMsMax: number
}

interface StoredFile extends Received {
  readonly objectKey: string
  readonly name: string
  readonly contentType: string | null
}

/** Between the parts of a form: more than there are when it has as many parts as its parser takes. */
const DELIMITERS_MAX = 32

/** Pairs of a part's header. */
const HEADER_PAIRS_MAX = 100

/** How long an upload waits for its place before it is refused. */
const PLACE_WAIT_MS_MAX = 120_000

/**
 * Lets a server take forms, every part as a stream: the form's parser would read fields by itself, make of JSON in them what it is, 22 MB of a megabyte, and keep that as long as the form is open.
 */
export async function takeForms(app: FastifyInstance): Promise<void> {
  await app.register(multipart, {
    isPartAFile: () => true,
    limits: {
      files: PARTS_MAX,
      fields: 0,
      parts: PARTS_MAX,
      headerPairs: HEADER_PAIRS_MAX,
      fileSize: Number.MAX_SAFE_INTEGER,
    },
    throwFileSizeLimit: false,
  })
}

/**
 * Takes one upload: streams the part `file` to S3, then makes the job. Until the job is in the stream nothing is promised, and whatever fails
 * before takes the object away again. A place is held only while bytes of the file flow.
 */
export async function takeUpload(
  options: UploadOptions,
  request: FastifyRequest,
  tenant: TenantId,
  signal: AbortSignal,
): Promise<JobRecord> {
  const jobId = timedId(options.time.now())
  const fields = new FormFields()
  let stored: StoredFile | undefined
  const leave = await options.doors.acquire(tenant, signal)
  const pace = new Pace(request.raw, { ...options, tenant })
  try {
    for await (const part of partsOf(request, pace)) {
      if (!isFile(part)) await Promise.race([fieldOf(fields, part), pace.stalled])
      else {
        checkIsFirst(part, stored)
        stored = await storeFile(options, part, tenant, jobId, pace, signal)
      }
    }
    pace.end()
    if (!stored) throw invalid('The upload has no part "file"; send for example: curl -F file=@report.pdf …')
    const job = options.jobs.newRecord({
      job_id: jobId,
      tenant,
      kind: 'ingest',
      clock: formatClock({ wall: options.time.now(), counter: 0, origin: `upload-${jobId}` }),
      file: {
        name: stored.name,
        objectKey: stored.objectKey,
        bytes: stored.bytes,
        contentType: stored.contentType,
        sha256: stored.sha256,
      },
      ...jobFields(fields, stored),
    })
    if (signal.aborted) throw signal.reason
    await options.jobs.enqueue(job)
    return job
  } catch (error) {
    if (stored)
      await options.objects
        .delete(stored.objectKey)
        .catch(failure => options.logger.warn({ err: String(failure) }, 'an object without a job stays behind'))
    throw error
  } finally {
    pace.end()
    leave()
  }
}

/** A part that breaks off says so as the form does. */
async function fieldOf(fields: FormFields, part: MultipartFile): Promise<void> {
  if (part.fieldname === 'file')
    throw invalid('The part "file" has no file name; send for example: curl -F file=@report.pdf …')
  try {
    await fields.take(part)
  } catch (error) {
    throw fromMultipart(error)
  }
}

function checkIsFirst({ fieldname }: MultipartFile, stored: StoredFile | undefined): void {
  if (fieldname !== 'file')
    throw invalid(
      `The part with the file must be named "file", not ${JSON.stringify((fieldname ?? '').slice(0, 100))}.`,
    )
  if (stored) throw invalid('The form has more than one file; send each with a request of its own.')
}

async function storeFile(
  options: UploadOptions,
  part: MultipartFile,
  tenant: TenantId,
  jobId: string,
  pace: Pace,
  signal: AbortSignal,
): Promise<StoredFile> {
  const name = checkFileName(part.filename)
  const contentType = part.mimetype === 'application/octet-stream' ? null : part.mimetype.slice(0, 200)
  const objectKey = `uploads/${tenant}/${jobId}`
  await Promise.race([firstBytes(part.file), pace.stalled])
  pace.enter('queued')
  const release = await placeFor(options, tenant, signal)
  const leave = options.busy.enter(pace)
  try {
    const body = meter(part.file, { bytesMax: options.bytesMax, stalled: pace.signal })
    pace.enter('file', () => body.isHeldBack)
    try {
      await options.objects.put(objectKey, body, { ...(contentType === null ? {} : { contentType }), signal })
    } catch (error) {
      body.destroy()
      part.file.resume()
      throw pace.signal.aborted ? pace.signal.reason : error
    }
    // A part that ended because the form did is cut short, not finished.
    if (part.file.truncated) throw invalid('The file is cut short.')
    pace.enter('rest')
    return { ...body.received(), objectKey, name, contentType }
  } finally {
    leave()
    release()
  }
}

async function placeFor({ places }: UploadOptions, tenant: TenantId, signal: AbortSignal): Promise<() => void> {
  const timeout = timeoutSignal(PLACE_WAIT_MS_MAX)
  try {
    return await places.acquire(tenant, AbortSignal.any([signal, timeout]))
  } catch (error) {
    if (signal.aborted || !timeout.aborted) throw error
    throw new PercolateError('TOO_BUSY', `No place to upload became free in ${PLACE_WAIT_MS_MAX / 1000} s; retry.`)
  }
}

/** The last part of whatever path the client sent: a name to show, never one to open. Control characters go; what is too long is refused. */
function checkFileName(raw: string | undefined): string {
  const name = cleanLine((raw ?? '').split(/[/\\]/).at(-1) ?? '', Number.MAX_SAFE_INTEGER)
  return name === '' ? 'unnamed' : checkId(name, 'filename', NAME_BYTES_MAX)
}

/** A uri that the content names; a file name that would make it too long is left out. */
function derivedUri({ sha256, name }: StoredFile): string {
  const identity = `upload:${derivedId(sha256, name)}`
  const uri = `${identity}/${encodeURIComponent(name)}`
  return uri.length <= URI_BYTES_MAX ? uri : identity
}

function jobFields(
  fields: FormFields,
  stored: StoredFile,
): Pick<JobRecord, 'uri' | 'replaces' | 'category' | 'metadata'> {
  const uri = fields.get('uri')
  const category = fields.get('category')
  const metadata = fields.get('metadata')
  return {
    // Without a uri the content names the document: the same file twice is one.
    uri: uri ? checkId(strict(uri, 'uri'), 'uri', URI_BYTES_MAX) : derivedUri(stored),
    ...(uri ? { replaces: true } : {}),
    ...(category ? { category: checkId(strict(category, 'category'), 'category', CATEGORY_BYTES_MAX) } : {}),
    ...(metadata ? { metadata: parseMetadata(metadata) } : {}),
  }
}

/** What is no UTF-8 is read as U+FFFD by most: different uris would become one. */
function strict(text: string, field: string): string {
  if (!text.includes('\ufffd')) return text
  throw new PercolateError(
    'INVALID_ARGUMENT',
    `${field} has U+FFFD, which stands for what is no UTF-8; encode it as UTF-8.`,
    { field },
  )
}

function parseMetadata(text: string): { readonly [key: string]: unknown } {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    value = undefined
  }
  if (value === null || typeof value !== 'object' || Array.isArray(value)) {
    throw new PercolateError(
      'INVALID_ARGUMENT',
      `metadata must be a JSON object of at most ${FORM_METADATA_BYTES_MAX} bytes.`,
      { field: 'metadata' },
    )
  }
  return checkObject(value as Record<string, unknown>, 'metadata')
}

/** All are streams; see {@link takeForms}. */
async function* partsOf(request: FastifyRequest, pace: Pace): AsyncGenerator<MultipartFile> {
  try {
    const parts = counted(request).parts()
    for (;;) {
      const next = await Promise.race([parts.next(), pace.stalled])
      if (next.done) return
      yield next.value as MultipartFile
    }
  } catch (error) {
    throw fromMultipart(error)
  }
}

/** The request for the form's parser, which reads `raw`: its body, without more parts than there may be. */
function counted(request: FastifyRequest): FastifyRequest {
  const boundary = boundaryOf(request.headers['content-type'] ?? '')
  if (boundary === undefined)
    throw invalid('Content-Type names no boundary between the parts of the form, or one that is not taken.')
  const refusal = bodyRefusal(request.raw)
  if (refusal) throw refusal
  const form = new FormParts(boundary, DELIMITERS_MAX, () => TOO_MANY_PARTS)
  // Its parser may refuse the request before it listens.
  form.on('error', () => {})
  request.raw.once('error', error => form.destroy(error))
  request.raw.pipe(form)
  // The parser sees the same boundary.
  const headers = { ...request.headers, 'content-type': `multipart/form-data; boundary="${boundary}"` }
  return Object.create(request, { raw: { value: Object.assign(form, { headers }) } })
}

function fromMultipart(error: unknown): unknown {
  if (error instanceof PercolateError) return error
  const code = (error as { code?: string }).code ?? ''
  if (code === 'FST_INVALID_MULTIPART_CONTENT_TYPE') return notMultipart()
  const limit = LIMIT_REMEDIES[code]
  if (limit) return limit
  if (code.startsWith('FST_')) return invalid(`The form is not accepted: ${(error as Error).message}.`)
  return invalid('The form is malformed or cut short; nothing was kept.')
}

/** Said before the body is looked at. */
export const notMultipart = (): PercolateError =>
  new PercolateError(
    'UNSUPPORTED_MEDIA_TYPE',
    'Send multipart/form-data with a part "file", for example: curl -F file=@report.pdf …',
    { field: 'Content-Type' },
  )

const invalid = (message: string): PercolateError => new PercolateError('UPLOAD_INVALID', message, { field: 'file' })

const TOO_MANY_PARTS = invalid(`The form has too many parts; there are ${KNOWN_PARTS}.`)

/** What the form's parser stops at, in words that say what to do. */
const LIMIT_REMEDIES: Readonly<Record<string, PercolateError>> = {
  FST_FILES_LIMIT: TOO_MANY_PARTS,
  FST_PARTS_LIMIT: TOO_MANY_PARTS,
}
