import type { ServerUnaryCall, ServerWritableStream, sendUnaryData } from '@grpc/grpc-js'
import { errorTable, PercolateError, toPercolateError } from '../../base/errors.ts'
import { parseTenantId, type TenantId } from '../../base/ids.ts'
import type { Logger } from '../../base/logger.ts'
import { isSameFloor } from '../../rem/floor.ts'
import { PEER_HEADER, type PeerAuth } from '../../replication/auth.ts'
import type { PeerHandlers, TransferHead, TransferRecords } from '../../replication/peer.ts'
import { decodePart, encodePart } from '../../replication/transfer.ts'
import { failure } from './calls.ts'
import { trustConnectionOf } from './connections.ts'
import type { Message } from './messages.ts'
import { floorMessage, statusMessage, vectorMessage, vectorOf, wholeOf } from './peer-messages.ts'

/** A receiver of a copy that takes nothing for this long is cut off: it keeps a place of those that are sent at once. */
const STALL_MS_MAX = 30_000

export interface PeerServerOptions {
  readonly handlers: PeerHandlers
  readonly auth: PeerAuth
  readonly logger: Logger
  /** Default: {@link STALL_MS_MAX}. */
  readonly stallMsMax?: number
}

/** The implementation of `percolate.v1.Peer`. */
export function peerMethods({ handlers, auth, logger, stallMsMax = STALL_MS_MAX }: PeerServerOptions) {
  const tenantOf = (call: { request: Message; metadata: { get(key: string): unknown[] } }): TenantId => {
    const tenant = parseTenantId(call.request.tenant)
    auth.verify(call.metadata.get(PEER_HEADER)[0], tenant)
    trustConnectionOf(call)
    return tenant
  }
  const report = (raw: unknown) => {
    const error = toPercolateError(raw)
    if (errorTable[error.code].http >= 500) logger.debug({ code: error.code }, error.message)
    if (error.code === 'INTERNAL') logger.error({ err: error.cause ?? error }, 'a peer call failed')
    return failure(error)
  }
  const unary =
    (handler: (tenant: TenantId, request: Message) => Promise<Message>) =>
    (call: ServerUnaryCall<Message, Message>, done: sendUnaryData<Message>) => {
      const run = async () => handler(tenantOf(call), call.request)
      run().then(
        answer => done(null, answer),
        error => done(report(error)),
      )
    }
  const incarnation = (request: Message) => String(request.incarnation ?? '')
  const buffers = (list: unknown): Buffer[] => ((list as Uint8Array[] | undefined) ?? []).map(item => Buffer.from(item))

  return {
    Status: unary(async tenant => statusMessage(await handlers.status(tenant))),
    AwaitVector: unary(async (tenant, request) => ({
      reached: await handlers.awaitVector(
        tenant,
        incarnation(request),
        vectorOf(request.vector),
        Number(request.timeout_ms ?? 0),
        wholeOf(request),
      ),
    })),
    Transfer: (call: ServerWritableStream<Message, Message>) => {
      let isGone = false
      ;(call as unknown as NodeJS.EventEmitter).once('cancelled', () => {
        isGone = true
      })
      const run = async () => {
        const tenant = tenantOf(call)
        const from = call.request.from as Uint8Array | undefined
        const start = from && from.length > 0 ? Buffer.from(from) : undefined
        let head: TransferHead | undefined
        for await (const part of handlers.transfer(tenant, incarnation(call.request), start)) {
          if (isGone) return
          if ('head' in part) head = part.head
          // It would take the copy over without the deletes that were forgotten while it was sent.
          else if ('end' in part && call.request.reads_end_floor !== true && !isSameFloor(head?.floor, part.end.floor))
            throw new PercolateError('TENANT_UNAVAILABLE', 'Garbage was collected while the copy was sent; try again.')
          if (!call.write({ part: encodePart(part) }) && !(await drained(call, stallMsMax)))
            throw new PercolateError('NODE_UNAVAILABLE', `The receiver took nothing for ${stallMsMax} ms.`)
        }
      }
      run().then(
        () => call.end(),
        error => call.emit('error', report(error)),
      )
    },
    Digests: unary(async (tenant, request) => {
      const { vector, floor, ...rest } = await handlers.digests(tenant, incarnation(request))
      return { vector: vectorMessage(vector), ...(floor ? { floor: floorMessage(floor) } : {}), ...rest }
    }),
    Bucket: unary(async (tenant, request) => ({
      items: await handlers.bucket(tenant, incarnation(request), Number(request.bucket ?? 0)),
    })),
    Records: unary(async (tenant, request) => ({
      part: encodePart(await handlers.records(tenant, incarnation(request), buffers(request.keys))),
    })),
    PromiseFloor: unary(async (tenant, request) =>
      vectorMessage(
        await handlers.promiseFloor(tenant, incarnation(request), {
          wall: Number(request.wall ?? 0),
          counter: Number(request.counter ?? 0),
          origin: String(request.origin ?? 'floor'),
        }),
      ),
    ),
    HasRead: unary(async (tenant, request) => {
      const vector = await handlers.hasRead(tenant, String(request.stream ?? ''), Number(request.sequence ?? 0))
      return { read: vector !== undefined, ...(vector ? { vector: vectorMessage(vector) } : {}) }
    }),
    RequestHome: unary(async (tenant, request) => ({
      reached: await handlers.requestHome(tenant, String(request.successor ?? '')),
    })),
    NoteActive: unary(async tenant => ({ reached: await handlers.noteActive(tenant) })),
    Offer: unary(async (tenant, request) => ({
      reached: await handlers.offer(tenant, String(request.successor ?? '')),
    })),
    Push: unary(async (tenant, request) => vectorMessage(await handlers.push(tenant, buffers(request.entries)))),
    Late: unary(async tenant => ({ entries: await handlers.late(tenant) })),
    KeepLate: unary(async (tenant, request) => {
      await handlers.keepLate(tenant, buffers(request.entries))
      return { reached: true }
    }),
    Parked: unary(async (tenant, request) => {
      const origin = String(request.origin ?? '')
      const after = origin === '' ? undefined : { origin, sequence: Number(request.sequence ?? 0) }
      return { entries: await handlers.parked(tenant, after) }
    }),
    KeepParked: unary(async (tenant, request) => {
      await handlers.keepParked(tenant, buffers(request.entries))
      return { reached: true }
    }),
    DismissLate: unary(async (tenant, request) => {
      await handlers.dismissLate(tenant, String(request.origin ?? ''), Number(request.sequence ?? 0))
      return { reached: true }
    }),
  }
}

/** Whether the receiver takes more, or is gone; false when it has taken nothing in time. */
function drained(call: NodeJS.EventEmitter, timeoutMs: number): Promise<boolean> {
  return new Promise(resolve => {
    const settle = (isDrained: boolean) => {
      clearTimeout(timer)
      for (const event of ENDINGS) call.off(event, onDrained)
      resolve(isDrained)
    }
    const onDrained = () => settle(true)
    const timer = setTimeout(() => settle(false), timeoutMs)
    for (const event of ENDINGS) call.once(event, onDrained)
  })
}

const ENDINGS = ['drain', 'close', 'cancelled']

/** Records that came in one part. */
export function recordsOf(part: unknown): TransferRecords {
  const decoded = decodePart(Buffer.from((part as Uint8Array | undefined) ?? []))
  if (!('records' in decoded)) throw new PercolateError('SNAPSHOT_INVALID', 'A peer sent something else than records.')
  return decoded
}
