import type { FastifyInstance, FastifyRequest } from 'fastify'
import { addTenantHook } from '../src/api/http/call.ts'
import { addHome } from '../src/api/http/home.ts'
import { addGatewayOpenApi } from '../src/api/http/openapi.ts'
import { closeServer, createHttpServer, listen } from '../src/api/http/server.ts'
import { Connections } from '../src/base/connections.ts'
import { errorMessage, PercolateError } from '../src/base/errors.ts'
import { FairSemaphore } from '../src/base/fair-semaphore.ts'
import { Lifecycle } from '../src/base/lifecycle.ts'
import type { Logger } from '../src/base/logger.ts'
import { Metrics } from '../src/base/metrics.ts'
import { Probes } from '../src/base/probes.ts'
import { Refusals } from '../src/base/refusals.ts'
import type { Time } from '../src/base/time.ts'
import type { Config } from '../src/config/settings.ts'
import { Jobs } from '../src/jobs/jobs.ts'
import { isFinished, isJobId, type JobRecord, publicJob } from '../src/jobs/model.ts'
import type { ObjectStore } from '../src/objects/port.ts'
import type { StreamPort } from '../src/stream/port.ts'
import { BusyUploads } from './busy-uploads.ts'
import { JobListings, type ListingQuery, listingQuery } from './job-listings.ts'
import { JobWaits, parseWait } from './job-waits.ts'
import { addGatewayMetrics, type UploadCounters } from './metrics.ts'
import { notMultipart, takeForms, takeUpload } from './upload.ts'

export interface GatewayOptions {
  readonly config: Config
  readonly logger: Logger
  readonly time: Time
  readonly stream: StreamPort
  readonly objects: ObjectStore
}

export interface RunningGateway {
  readonly port: number
  stop(): Promise<void>
}

const UPLOAD = '/upload'
const BODY_BYTES_MAX = 64 * 1024
const PROBE_TIMEOUT_MS = 2000
const NODE_ELSEWHERE = 'this is the upload gateway; the API is at the database node, port 8080 unless set otherwise'

/** The upload gateway: multipart in, S3 out, a job for each file; and the state of jobs. Keeps nothing itself. */
export async function startGateway(options: GatewayOptions): Promise<RunningGateway> {
  const { config, logger, time, stream, objects } = options
  const lifecycle = new Lifecycle(logger)
  const metrics = new Metrics()
  const probes = new Probes(PROBE_TIMEOUT_MS)
  const jobs = Jobs.of(config, { stream, time, tier: config.tier })
  const { uploadsMax, uploadsWaitingMax } = config
  const uploadsPerTenantMax = config.uploadsPerTenantMax || Math.ceil(uploadsMax / 2)
  const open = uploadsMax + uploadsWaitingMax
  // A tenant may fill half of the queue, so that there is always a way in for another.
  const openPerTenantMax = Math.max(uploadsPerTenantMax, Math.ceil(open / 2))
  const doors = new FairSemaphore({
    permits: open,
    perKeyMax: openPerTenantMax,
    waitersMax: 0,
    waitersPerKeyMax: 0,
    name: 'uploading',
  })
  const places = new FairSemaphore({
    permits: uploadsMax,
    perKeyMax: uploadsPerTenantMax,
    waitersMax: uploadsWaitingMax,
    waitersPerKeyMax: openPerTenantMax,
    name: 'uploading',
    time,
  })
  probes.add('stream', () => stream.ping())
  probes.add('objects', () => objects.ping())
  const waits = new JobWaits(jobs, time)
  const counters = addGatewayMetrics(metrics, doors, places, waits)

  const app = createHttpServer({
    logger,
    metrics,
    probes,
    refusals: new Refusals({ logger, metrics, time }),
    connections: metrics.addConnections('gateway', Connections.of(config)),
    bodyBytesMax: BODY_BYTES_MAX,
    requestReadMs: config.requestReadMs,
    readerStallMs: config.readerStallMs,
    elsewhere: { '/api': NODE_ELSEWHERE, '/v1': NODE_ELSEWHERE },
  })
  // An upload is timed by its pace, whatever its size; every other request by this.
  app.server.requestTimeout = 0
  await addGatewayOpenApi(app)
  addHome(app, {
    role: 'upload gateway',
    about:
      'Takes documents and says how far their jobs are. Search, chat and everything else are at the database node.',
    links: [
      { href: '/docs', text: 'uploads and jobs, to read and to try' },
      { href: '/openapi.json', text: 'the same for programs' },
      { href: '/ready', text: 'whether the gateway can do its work' },
    ],
  })
  await takeForms(app)
  await app.register(async scope => {
    addTenantHook(scope, { time, asOfAheadMsMax: Number.POSITIVE_INFINITY, onTenant: () => {} })
    timeBodies(scope, time, config.requestReadMs)
    addUploadRoute(scope, counters, waits, {
      objects,
      jobs,
      time,
      logger,
      doors,
      places,
      busy: new BusyUploads(places),
      bytesMax: config.uploadBytesMax,
      idleMs: config.uploadIdleMs,
      bytesPerSecondMin: config.uploadBytesPerSecondMin,
      bytesPerSecondMinWhenBusy: config.uploadBytesPerSecondMinWhenBusy,
      uploadMsMax: config.uploadMsMax,
    })
    addJobRoutes(scope, jobs, waits)
  })
  // Made early, so that an autoscaler finds the consumer; the first upload tries again when NATS is away now.
  void jobs.prepare().catch(error => logger.warn({ reason: errorMessage(error) }, 'the job stream cannot be made yet'))
  const port = await listen(app, config.host, config.gatewayPort, 'PERCOLATE_GATEWAY_PORT')
  lifecycle.add('gateway', () => closeServer(app, config.drainMs))
  lifecycle.add('waits', () => waits.stop())
  return { port, stop: () => lifecycle.stop() }
}

/** Cuts the connection of a request (uploads aside) whose body does not come. */
function timeBodies(scope: FastifyInstance, time: Time, readMs: number): void {
  scope.addHook('onRequest', async ({ raw, routeOptions }) => {
    const { 'content-length': length, 'transfer-encoding': encoding } = raw.headers
    if (routeOptions.url === UPLOAD || (length === undefined && encoding === undefined)) return
    const ended = new AbortController()
    for (const event of ['end', 'close']) raw.once(event, () => ended.abort())
    void time.sleep(readMs, { signal: ended.signal, ref: false }).then(
      () => raw.destroy(),
      () => {},
    )
  })
}

function addUploadRoute(
  scope: FastifyInstance,
  counters: UploadCounters,
  waits: JobWaits,
  options: Parameters<typeof takeUpload>[0],
): void {
  scope.post(UPLOAD, { onRequest: refuseOtherForms }, async (request, reply) => {
    let job: JobRecord
    let waitMs: number
    const { tenant, signal } = request.call
    try {
      waitMs = parseWait((request.query as { wait?: unknown }).wait)
      job = await takeUpload(options, request, tenant, signal)
      counters.uploads.inc({ outcome: 'accepted' })
      counters.bytes.inc(job.file?.bytes ?? 0)
    } catch (error) {
      counters.uploads.inc({
        outcome: error instanceof PercolateError && error.code === 'CANCELLED' ? 'aborted' : 'refused',
      })
      throw error
    }
    void reply.header('location', `/jobs/${job.job_id}`)
    // The upload stands: whatever becomes of the wait is no reason to send it again.
    const ended = waitMs > 0 ? await waits.wait(tenant, job.job_id, waitMs, signal).catch(() => undefined) : undefined
    if (ended && isFinished(ended.status)) return reply.code(200).send(publicJob(ended))
    return reply.code(202).send({ job_id: job.job_id, status: ended?.status ?? job.status })
  })
}

/** Before the body is read: JSON is not parsed to be told that a form is wanted. */
async function refuseOtherForms(request: FastifyRequest): Promise<void> {
  if (/^multipart\/form-data\b/i.test(request.headers['content-type'] ?? '')) return
  throw notMultipart()
}

function addJobRoutes(scope: FastifyInstance, jobs: Jobs, waits: JobWaits): void {
  const idOf = (params: unknown): string => {
    const { id } = params as { id: string }
    if (!isJobId(id)) throw new PercolateError('NOT_FOUND', 'This tenant has no such job.')
    return id
  }
  const listings = new JobListings(jobs)
  scope.get('/jobs', { schema: { querystring: listingQuery } }, async ({ call, query }) =>
    listings.page(call.tenant, query as ListingQuery, call.signal),
  )
  scope.get('/jobs/:id', async request => {
    const { tenant, signal } = request.call
    const waitMs = parseWait((request.query as { wait?: unknown }).wait)
    const job = await waits.wait(tenant, idOf(request.params), waitMs, signal)
    if (!job) throw new PercolateError('NOT_FOUND', 'This tenant has no such job, or its record has expired.')
    return publicJob(job)
  })
  scope.post('/jobs/:id/retry', async (request, reply) =>
    reply.code(202).send(publicJob(await jobs.retry(request.call.tenant, idOf(request.params)))),
  )
  scope.delete('/jobs/:id', async request => publicJob(await jobs.cancel(request.call.tenant, idOf(request.params))))
}
