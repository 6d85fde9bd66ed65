import { describe, expect, it } from 'vitest'
import { PercolateError } from '../../../src/base/errors.ts'
import { planEntity } from '../../../src/rem/plan.ts'
import type { LwwRecord } from '../../../src/rem/record.ts'
import { encodeEntry } from '../../../src/storage/codec.ts'
import { subjects } from '../../../src/stream/subjects.ts'
import { TIMES, versionOf } from '../../sim/cluster.ts'
import { SmallCluster } from '../../support/small-cluster.ts'

/** Two clocks that are each within the bound, and further apart than an entry may be ahead. */
const SKEW_MS = TIMES.clockSkewMsMax - 1000
const MISSED = 'PRECONDITION_FAILED'
const isDone = (outcome: string) => /^0/.test(outcome)

const ref = { kind: 'entity', key: ['counter'] } as const

/** A conditional write, sent to one node: the version that it made, or why not. */
async function decide(small: SmallCluster, node: string, ifVersion: string, by: string): Promise<string> {
  const request = {
    tenant: small.tenant,
    ref,
    ifVersion,
    durability: 'stream' as const,
    write: (_: LwwRecord | undefined, clock: Parameters<typeof planEntity>[1]) =>
      planEntity({ id: 'counter', properties: { by } }, clock),
  }
  try {
    const { clock } = await small.settle(small.process(node).handle(request, undefined))
    return versionOf({ put: clock, del: undefined, fields: new Map() })
  } catch (error) {
    return error instanceof PercolateError ? error.code : String(error)
  }
}

/** Asks until there is an answer: a version, or that the one of the condition is not there any more. */
async function decideAtLast(small: SmallCluster, node: string, ifVersion: string, by: string): Promise<string> {
  for (let n = 0; n < 1000; n++) {
    const outcome = await decide(small, node, ifVersion, by)
    if (outcome === MISSED || isDone(outcome)) return outcome
    await small.world.run(20)
  }
  throw new Error('nobody decides')
}

/** What the counter says on a node's own disk. */
const by = async (small: SmallCluster, node: string) =>
  (await small.open(node, open => open.record(ref)))?.fields.get('property:by')?.value

const skew = (small: SmallCluster, node: string, ms: number) => {
  small.cluster.node(node)!.skewMs = ms
}

/**
 * n1, the home, decided `first` on the version `start` with a clock that n2's is behind by more than an entry may be ahead. What is parked is looked at by n2's loop once in `maintenanceMs`.
 */
async function decidedAhead(maintenanceMs = 500) {
  const small = await SmallCluster.start({ settings: { gcIntervalMs: 1e9, tombstoneMs: 1e9, maintenanceMs } })
  const start = await decide(small, 'n1', 'none', 'start')
  await small.world.run(3000)
  expect(await by(small, 'n2')).toBe('start')
  skew(small, 'n1', SKEW_MS)
  skew(small, 'n2', -SKEW_MS)
  await small.world.run(3000)
  const first = await decideAtLast(small, 'n1', start, 'first')
  expect(first).toMatch(/^0/)
  return { small, start }
}

/** n2 decides on nothing before it sees what n1 decided. */
async function expectOneDecision(small: SmallCluster, start: string): Promise<void> {
  expect(await by(small, 'n2')).toBe('start')
  expect(await decideAtLast(small, 'n2', start, 'second')).toBe(MISSED)
  expect(await by(small, 'n2')).toBe('first')
}

/** Entries of an origin that is nowhere any more, as the stream brings them. */
function publish(small: SmallCluster, sequence: number, aheadMs: number): void {
  const { incarnation } = small.placement('n2')
  const clock = { wall: small.process('n2').time.now() + aheadMs, counter: sequence, origin: 'gone.d1' }
  const ops = planEntity({ id: `e${sequence}`, properties: { n: sequence } }, clock)
  const data = encodeEntry({ tenant: small.tenant, incarnation, origin: 'gone.d1', sequence, ops })
  small.cluster.log.publish(subjects.syncOps(small.tenant), data, `gone ${sequence}`)
}

describe('a decision that is parked with the next home, whose clock is far behind', () => {
  it('is waited for when the home was handed over without opening the tenant', async () => {
    const { small, start } = await decidedAhead()
    const { pool, replica } = small.process('n1')
    await small.settle(pool.exclusive(small.tenant, async () => {}))
    expect(pool.isOpen(small.tenant)).toBe(false)
    expect(await small.settle(replica.homes.handOver(small.tenant, 'n2'))).toBe(true)
    await expectOneDecision(small, start)
  })

  it.each([500, 60_000])('is waited for, and applied when due, by who takes the home over (loop: %i ms)', async ms => {
    const { small, start } = await decidedAhead(ms)
    small.process('n1').kill()
    await expectOneDecision(small, start)
  })

  it('is waited for when the home comes back with an empty disk, and what was on its way from there does not win over what comes next', async () => {
    const { small, start } = await decidedAhead()
    const { decidesBelowMs } = small.process('n1').replica.membership
    small.process('n1').kill()
    small.cluster.node('n1')!.loseDisk()
    small.cluster.node('n1')!.start()
    await small.until('the home is nobody', () => small.placement('n2').home === undefined)
    expect(small.placement('n2').decidesAboveMs).toBeGreaterThanOrEqual(decidesBelowMs)
    await expectOneDecision(small, start)
  })

  it('is waited for by a node whose clock was hours behind when it asked for the home', async () => {
    const { small, start } = await decidedAhead(60_000)
    small.process('n1').kill()
    skew(small, 'n2', -4 * 3_600_000)
    for (let n = 0; n < 100; n++) {
      expect(await decide(small, 'n2', start, 'second')).toMatch(/UNAVAILABLE|SKEWED/)
      await small.world.run(100)
    }
    skew(small, 'n2', -SKEW_MS)
    await expectOneDecision(small, start)
  })
})

describe('what is parked and no decision', () => {
  it('does not keep a home from being taken when it is from further ahead than any decision', async () => {
    const small = await SmallCluster.start({ settings: { gcIntervalMs: 1e9, tombstoneMs: 1e9 } })
    const start = await decide(small, 'n1', 'none', 'start')
    publish(small, 1, 3_600_000)
    publish(small, 2, 0)
    await small.until('it is parked', () => small.process('n2').replica.maintenance.hasParked(small.tenant))
    small.process('n1').kill()
    expect(await decideAtLast(small, 'n2', start, 'second')).toMatch(/^0/)
  })

  it('keeps it for a bounded time when more of it comes all the while', async () => {
    const small = await SmallCluster.start({ settings: { gcIntervalMs: 1e9, tombstoneMs: 1e9 } })
    const start = await decide(small, 'n1', 'none', 'start')
    small.process('n1').kill()
    let outcome = ''
    const until = small.world.nowMs + 3 * TIMES.leaseMs + 2 * TIMES.clockSkewMsMax
    for (let n = 1; !isDone(outcome) && small.world.nowMs < until; n++) {
      publish(small, n, TIMES.clockSkewMsMax + 3000)
      await small.world.run(100)
      outcome = await decide(small, 'n2', start, 'second')
    }
    expect(outcome).toMatch(/^0/)
  })
})
