import { addGatewayMetrics } from '../gateway/metrics.ts'
import { JobRunner } from '../workers/runner.ts'
import { FeedPlaces } from './api/feed-places.ts'
import { HeldAnswers } from './api/held-answers.ts'
import { HeldBodies } from './api/held-bodies.ts'
import { FairSemaphore } from './base/fair-semaphore.ts'
import { Metrics } from './base/metrics.ts'
import { systemTime } from './base/time.ts'
import { addActivatorMetrics, addControllerMetrics } from './controller-metrics.ts'
import { addNodeMetrics } from './node-metrics.ts'
import { HeavyReads } from './session/heavy-reads.ts'
import { addNatsMetrics } from './stream/nats/watch.ts'
import { Activity } from './tenant/activity.ts'
import { DiskGuard } from './tenant/disk-guard.ts'
import { TenantPool } from './tenant/pool.ts'
import { StagingRoom } from './tenant/staging-room.ts'

/** `docs/metrics.md`, from the metrics that the roles really register. */
export async function metricsMarkdown(): Promise<string> {
  const never = () => Promise.reject(new Error('not used'))
  const pool = new TenantPool({
    time: systemTime,
    logger: undefined as never,
    openMax: 1,
    memoryBytesMax: 1,
    tenantBytes: 1,
    idleMs: 1,
    waitMsMax: 1,
    exists: never,
    open: never,
  })
  const noPlaces = new FairSemaphore({ permits: 1, perKeyMax: 1, waitersMax: 0, waitersPerKeyMax: 0, name: 'docs' })
  const roles: [string, (metrics: Metrics) => void][] = [
    ['every role', () => {}],
    [
      'node',
      metrics =>
        addNodeMetrics({
          metrics,
          pool,
          activity: new Activity(systemTime, 1),
          tier: 'small',
          replica: undefined,
          changes: { places: new FeedPlaces({ feedsMax: 0, tenantFeedsMax: 0 }), longestCursor: 0 },
          heavyReads: new HeavyReads({ heavyReadsMax: 1, heavyReadsWaitingMax: 0 }),
          disk: new DiskGuard('.', 0),
          room: new StagingRoom(0),
          bodies: new HeldBodies(0),
          answers: new HeldAnswers(0),
          calls: { held: 0, refused: 0 },
        }),
    ],
    [
      'controller',
      metrics => {
        addControllerMetrics(metrics, ['small'], undefined)
        addActivatorMetrics(metrics, ['small'], undefined)
      },
    ],
    ['worker', metrics => new JobRunner({ parsers: { idle: 0 } } as never).addMetrics(metrics)],
    ['up', metrics => void addNatsMetrics(metrics)],
    ['gateway', metrics => void addGatewayMetrics(metrics, noPlaces, noPlaces, { count: 0 })],
  ]
  const common = new Set<string>()
  const rows: string[] = []
  for (const [role, add] of roles) {
    const metrics = new Metrics()
    add(metrics)
    for (const { name, help, type } of await metrics.registry.getMetricsAsJSON()) {
      if (!name.startsWith('percolate_') || common.has(name)) continue
      if (role === 'every role') common.add(name)
      rows.push(`| \`${name}\` | ${String(type)} | ${role} | ${help} |`)
    }
  }
  return [
    '# Metrics',
    '',
    'Generated from the code by `npm run docs`. Every role serves them at `/metrics` for Prometheus, with the usual ones of Node beside them (`nodejs_eventloop_lag_*`: how long the event loop was held; `process_resident_memory_bytes`; …). Tenant ids are never labels. With `percolate up` the worker counts on the page of the node.',
    '',
    '| metric | type | role | meaning |',
    '|---|---|---|---|',
    ...rows,
    '',
  ].join('\n')
}
