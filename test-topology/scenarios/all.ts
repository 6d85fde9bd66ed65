import { idleFeeds, refusedRequests, silentUploads } from './attacks.ts'
import { replication, rolling, zoneLoss } from './faults.ts'
import { affinity, scalingUp } from './routing.ts'
import { endToEnd, scaleToZero, workers } from './scaling.ts'
import type { Scenario } from './scenario.ts'
import { shrinking, shrinkingWithStore } from './shrinking.ts'

/** In the order of the documentation. */
export const scenarios: readonly Scenario[] = [
  affinity,
  scalingUp,
  scaleToZero,
  shrinking,
  shrinkingWithStore,
  workers,
  replication,
  endToEnd,
  zoneLoss,
  rolling,
  refusedRequests,
  idleFeeds,
  silentUploads,
]
