import { PercolateError } from '../../base/errors.ts'
import type { TenantId } from '../../base/ids.ts'
import type { Logger } from '../../base/logger.ts'
import type { Time } from '../../base/time.ts'
import { type Clock, parseClock } from '../../clock/hlc.ts'
import type { Embedder } from '../../embedding/port.ts'
import type { TenantPool } from '../../tenant/pool.ts'
import type { Tenant } from '../../tenant/tenant.ts'

/** What every operation gets from the protocol in front of it. */
export interface Call {
  readonly tenant: TenantId
  /** Ends when the client goes away or its deadline passes. */
  readonly signal: AbortSignal
  /** Whether the signal has fired, or would have; spares making it. */
  readonly hasEnded: boolean
  /** The clock to write with instead of now; see `X-Percolate-As-Of`. */
  readonly asOf?: Clock | undefined
}

export interface OperationsContext {
  readonly time: Time
  readonly logger: Logger
  readonly pool: TenantPool
  readonly embedder: Embedder
  /** Called after a write that left resources without embeddings. */
  readonly onPending: (tenant: TenantId) => void
}

/** Reads of a tenant that was never written are empty; nothing is made on disk for them. */
export async function read<T>(
  context: OperationsContext,
  call: Call,
  work: (tenant: Tenant) => Promise<T>,
  empty: () => NoInfer<T>,
): Promise<T> {
  throwIfCancelled(call)
  const result = await context.pool.use(call.tenant, async tenant => ({ value: await work(tenant) }))
  return result === undefined ? empty() : result.value
}

export async function write<T>(
  context: OperationsContext,
  call: Call,
  work: (tenant: Tenant) => Promise<T>,
): Promise<T> {
  throwIfCancelled(call)
  return context.pool.use(call.tenant, work, { create: true })
}

export function throwIfCancelled(call: Call): void {
  if (!call.hasEnded) return
  const reason: unknown = call.signal.reason
  throw reason instanceof PercolateError ? reason : new PercolateError('CANCELLED', 'The client went away.')
}

/** How far ahead of this node's clock a client's clock may be. */
const AS_OF_AHEAD_MS_MAX = 60_000

export function parseAsOf(text: string, nowMs: number): Clock {
  const field = 'X-Percolate-As-Of'
  const clock = parseClock(text)
  if (!clock) {
    throw new PercolateError(
      'INVALID_CLOCK',
      `${field} must look like 0193a1b2c3d4-00000000-origin: 12 hex digits of milliseconds, 8 of a counter, and a name.`,
      { field },
    )
  }
  if (clock.wall > nowMs + AS_OF_AHEAD_MS_MAX)
    throw new PercolateError('INVALID_CLOCK', `${field} is more than ${AS_OF_AHEAD_MS_MAX / 1000} s in the future.`, {
      field,
    })
  return clock
}

export const notFound = (what: string, id: string): PercolateError =>
  new PercolateError(
    'NOT_FOUND',
    `This tenant has no ${what} ${JSON.stringify(id.length > 80 ? `${id.slice(0, 80)}…` : id)}.`,
  )

export const isoTime = (timeMs: number): string => new Date(timeMs).toISOString()
