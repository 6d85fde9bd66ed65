import { PercolateError } from '../../base/errors.ts'
import type { TenantId } from '../../base/ids.ts'
import type { Logger } from '../../base/logger.ts'
import type { Time } from '../../base/time.ts'
import type { Embedder } from '../../embedding/port.ts'
import type { SessionContext } from '../../session/context.ts'
import type { HeavyReads } from '../../session/heavy-reads.ts'

export interface OperationsContext extends SessionContext {
  readonly time: Time
  readonly logger: Logger
  readonly embedder: Embedder
  /** Where reads that compute for long take turns. */
  readonly heavyReads: HeavyReads
  /** Called after a write that left resources without embeddings. */
  readonly onPending: (tenant: TenantId) => void
}

export const notFound = (what: string, id: string): PercolateError =>
  new PercolateError(
    'NOT_FOUND',
    `This tenant has no ${what} ${JSON.stringify(id.length > 80 ? `${id.slice(0, 80)}…` : id)}.`,
  )

export const isoTime = (timeMs: number): string => new Date(timeMs).toISOString()
