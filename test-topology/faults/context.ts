import type { ClientContext } from './clients.ts'
import type { FaultWorld } from './world.ts'

/** What a fault needs to be inflicted: the world, and the clients' side of it. */
export interface FaultContext extends ClientContext {
  readonly world: FaultWorld
}
