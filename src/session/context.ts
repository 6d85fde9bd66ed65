import type { Durability, Replica } from '../replication/replica.ts'
import type { TenantPool } from '../tenant/pool.ts'

/** What reads and writes of a session need of the node. */
export interface SessionContext {
  readonly pool: TenantPool
  /** The node's part in a cluster; a node without a stream has none. */
  readonly replica: Replica | undefined
  /** Of writes that ask for none. */
  readonly durability: Durability
  readonly durabilityTimeoutMs: number
}
