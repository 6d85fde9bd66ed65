import type { EventEmitter } from 'node:events'
import {
  Metadata,
  type ServerDuplexStream,
  type ServerReadableStream,
  type ServerUnaryCall,
  type ServerWritableStream,
  type sendUnaryData,
  status,
} from '@grpc/grpc-js'
import { errorTable, PercolateError, toPercolateError } from '../../base/errors.ts'
import { parseTenantId, type TenantId } from '../../base/ids.ts'
import type { Logger } from '../../base/logger.ts'
import type { Metrics } from '../../base/metrics.ts'
import type { Time } from '../../base/time.ts'
import { type Call, parseAsOf } from '../operations/context.ts'
import type { Message } from './messages.ts'

export interface CallContext {
  readonly logger: Logger
  readonly metrics: Metrics
  readonly time: Time
  readonly node: string
  readonly onTenant: (tenant: TenantId) => void
}

type AnyCall =
  | ServerUnaryCall<Message, Message>
  | ServerReadableStream<Message, Message>
  | ServerWritableStream<Message, Message>
  | ServerDuplexStream<Message, Message>

export type UnaryHandler = (call: Call, request: Message) => Promise<Message>
export type StreamHandler = (call: Call, request: Message) => AsyncIterable<Message>
export type ClientStreamHandler = (call: Call, requests: AsyncIterable<Message>) => Promise<Message>

export function unary(context: CallContext, name: string, handler: UnaryHandler) {
  return (call: ServerUnaryCall<Message, Message>, done: sendUnaryData<Message>) => {
    const run = async () => handler(begin(context, call), call.request)
    const observe = timer(context, name)
    run().then(
      answer => {
        observe('OK')
        done(null, answer)
      },
      error => done(fail(context, observe, error)),
    )
  }
}

export function serverStream(context: CallContext, name: string, handler: StreamHandler) {
  return (call: ServerWritableStream<Message, Message>) => {
    const observe = timer(context, name)
    const run = async () => {
      const started = begin(context, call)
      for await (const message of handler(started, call.request)) {
        if (started.signal.aborted) return
        // A slow reader holds us back; a cancelled one does not.
        if (!call.write(message)) await drained(call, started.signal)
      }
    }
    run().then(
      () => {
        observe('OK')
        call.end()
      },
      error => call.emit('error', fail(context, observe, error)),
    )
  }
}

function drained(call: EventEmitter, signal: AbortSignal): Promise<void> {
  return new Promise(resolve => {
    const done = () => {
      call.off('drain', done)
      signal.removeEventListener('abort', done)
      resolve()
    }
    call.once('drain', done)
    signal.addEventListener('abort', done)
    if (signal.aborted) done()
  })
}

export function clientStream(context: CallContext, name: string, handler: ClientStreamHandler) {
  return (call: ServerReadableStream<Message, Message>, done: sendUnaryData<Message>) => {
    const observe = timer(context, name)
    const run = async () => handler(begin(context, call), call as AsyncIterable<Message>)
    run().then(
      answer => {
        observe('OK')
        done(null, answer)
      },
      error => done(fail(context, observe, error)),
    )
  }
}

/** Reads who asks; cancellation and the client's deadline end the call. */
function begin(context: CallContext, call: AnyCall): Call {
  const head = new Metadata()
  head.set('x-percolate-node', context.node)
  head.set('x-percolate-entry-node', context.node)
  call.sendMetadata(head)
  const values = call.metadata.get('x-tenant-id')
  const tenant = parseTenantId(values.length > 1 ? values : values[0])
  const asOf = call.metadata.get('x-percolate-as-of')[0]
  const controller = new AbortController()
  ;(call as EventEmitter).once('cancelled', () => {
    const deadline = Number(call.getDeadline())
    const passed = Number.isFinite(deadline) && context.time.now() >= deadline
    controller.abort(
      new PercolateError(
        passed ? 'DEADLINE_EXCEEDED' : 'CANCELLED',
        passed ? 'The deadline has passed.' : 'The client went away.',
      ),
    )
  })
  context.onTenant(tenant)
  return {
    tenant,
    signal: controller.signal,
    get hasEnded() {
      return controller.signal.aborted
    },
    ...(asOf === undefined ? {} : { asOf: parseAsOf(String(asOf), context.time.now()) }),
  }
}

function timer(context: CallContext, name: string): (outcome: string) => void {
  const startedAt = context.time.monotonic()
  return outcome => context.metrics.observeRequest('grpc', name, outcome, (context.time.monotonic() - startedAt) / 1000)
}

function fail(context: CallContext, observe: (outcome: string) => void, raw: unknown) {
  const error = toPercolateError(raw)
  const { grpc, log, http } = errorTable[error.code]
  observe(status[grpc] ?? String(grpc))
  context.metrics.countError(error.code)
  context.logger[log]({ code: error.code, ...(http >= 500 ? { err: error.cause ?? error } : {}) }, error.message)
  const metadata = new Metadata()
  metadata.set('percolate-code', error.code)
  if (error.field !== undefined && /^[\x20-\x7e]*$/.test(error.field)) metadata.set('percolate-field', error.field)
  if (error.retryAfterS !== undefined) metadata.set('retry-after', String(error.retryAfterS))
  return { code: grpc, details: error.message, metadata }
}
