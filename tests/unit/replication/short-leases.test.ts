import { describe, expect, it } from 'vitest'
import { parseTenantId, type TenantId } from '../../../src/base/ids.ts'
import { createLogger } from '../../../src/base/logger.ts'
import type { ObjectStore } from '../../../src/objects/port.ts'
import { planEntity } from '../../../src/rem/plan.ts'
import { Maintenance } from '../../../src/replication/maintenance.ts'
import type { PeerHandlers, TransferPart } from '../../../src/replication/peer.ts'
import { SnapshotStore } from '../../../src/replication/snapshots.ts'
import { SmallCluster } from '../../support/small-cluster.ts'

/** What may pass before somebody is answered who waits for nobody, simulated milliseconds: leases of others are short. */
const AT_ONCE_MS = 100
/** More than one part of a transfer: simulated ones have three records each. */
const RECORDS = 10

const other = parseTenantId('other')

/** A cluster whose nodes may each have one tenant open, with another tenant that can be written on `node`. */
async function crowded(node: string): Promise<SmallCluster> {
  const small = await SmallCluster.start({ openTenantsMax: 1, settings: { gcIntervalMs: 1e9 } })
  expect(await small.settle(small.process(node).replica.router.enter(other))).toBe(true)
  await small.world.run(2000)
  return small
}

const write = (small: SmallCluster, node: string, tenant: TenantId, ids: readonly string[]) =>
  small.process(node).pool.use(
    tenant,
    open =>
      open.write(({ clock }) => ({
        ops: ids.flatMap(id => planEntity({ id, properties: { from: node } }, clock)),
        result: undefined,
      })),
    { create: true },
  )

const fill = (small: SmallCluster, node: string) =>
  small.settle(
    write(
      small,
      node,
      small.tenant,
      Array.from({ length: RECORDS }, (_, n) => `e${String(n).padStart(4, '0')}`),
    ),
  )

/** Another tenant is written at once, and who wants the first one alone gets it at once. */
async function expectNotHeld(small: SmallCluster, node: string): Promise<void> {
  const { pool } = small.process(node)
  const took = async (work: Promise<unknown>) => {
    const beganMs = small.world.nowMs
    await small.settle(work)
    return small.world.nowMs - beganMs
  }
  expect(await took(write(small, node, other, ['elsewhere']))).toBeLessThan(AT_ONCE_MS)
  expect(await took(pool.exclusive(small.tenant, async () => {}))).toBeLessThan(AT_ONCE_MS)
}

/** What another node answers to one that is asked now: nothing, until it is let go. */
function silence(
  small: SmallCluster,
  node: string,
  make: (real: PeerHandlers, quiet: Promise<void>) => Partial<PeerHandlers>,
) {
  let end = () => {}
  const quiet = new Promise<void>(resolve => {
    end = resolve
  })
  const { peers } = small.process(node).replica
  const to = peers.to.bind(peers)
  peers.to = name => {
    const real = to(name)
    return { ...real, ...make(real, quiet) }
  }
  return end
}

/** The head of a transfer comes, the rest when it is let go. */
const stalled = (real: PeerHandlers, quiet: Promise<void>): Partial<PeerHandlers> => ({
  async *transfer(...args) {
    for await (const part of real.transfer(...args)) {
      yield part
      await quiet
    }
  },
})

describe('a node that may have one tenant open keeps it for nobody', () => {
  it('who publishes and gets no acknowledgement', async () => {
    const small = await crowded('n1')
    const { publisher } = small.process('n1').replica
    // Each request waits for an answer, some hundred milliseconds.
    small.cluster.natsDown = true
    const published = publisher.published
    await small.settle(write(small, 'n1', small.tenant, ['e']))
    await small.until('it is being published', () => publisher.describe(small.tenant) === 'publishing')
    await expectNotHeld(small, 'n1')
    small.cluster.natsDown = false
    await small.until('it is published', () => !publisher.isBusy)
    // Both tenants' own, each once, though they were closed and opened meanwhile.
    expect(publisher.published - published).toBe(2)
    expect(await small.open('n1', async open => [open.outbox.entries, open.outbox.bytes, open.isPublished(2)])).toEqual(
      [0, 0, true],
    )
  })

  it('who sends a copy to one that takes nothing', async () => {
    const small = await crowded('n1')
    await fill(small, 'n1')
    const { service } = small.process('n1').replica
    const parts = service.transfer(small.tenant, small.placement().incarnation, undefined)
    const next = () => small.settle(parts.next() as Promise<IteratorResult<TransferPart>>)
    let records = 0
    for (let part = await next(); !part.done; part = await next()) {
      await expectNotHeld(small, 'n1')
      if ('records' in part.value) records += part.value.records.length
      if ('end' in part.value) expect(part.value.end.records).toBe(records)
    }
    // With the one that was there.
    expect(records).toBe(RECORDS + 1)
  })

  it('who takes over what another holder has, when that one falls silent', async () => {
    const small = await crowded('n1')
    const end = silence(small, 'n1', stalled)
    const { reconciler } = small.process('n1').replica
    const done = reconciler.reconcile(small.tenant, 'n2')
    await small.world.run(1000)
    await expectNotHeld(small, 'n1')
    end()
    expect(await small.settle(done)).toBe(true)
    expect(reconciler.counts.reconciled).toBe(1)
  })

  it('who makes a copy from another, when that one falls silent', async () => {
    const small = await crowded('n3')
    await fill(small, 'n1')
    const end = silence(small, 'n3', stalled)
    await small.hold('n3', 'joining')
    await small.world.run(2000)
    expect(small.state('n3')).toBe('joining')
    await expectNotHeld(small, 'n3')
    end()
    await small.until('n3 is current', () => small.isCurrent('n3'))
    for (let n = 0; n < RECORDS; n++)
      expect(await small.read('n3', `e${String(n).padStart(4, '0')}`), `record ${n}`).toBeDefined()
  })

  it('who stores a snapshot, when the object store hangs', async () => {
    const small = await crowded('n1')
    const objects = new Hanging()
    const { replica, time } = small.process('n1')
    const logger = createLogger({ level: 'silent', role: 'test' })
    const snapshots = new SnapshotStore(objects as unknown as ObjectStore, time, logger)
    const options = { ...replica, ...{ time, logger, snapshots, node: 'n1' } }
    const maintenance = new Maintenance(options as unknown as ConstructorParameters<typeof Maintenance>[0])
    const done = maintenance.snapshot(small.tenant)
    for (const what of ['folders', 'folders', 'put', 'put', 'folders', 'folders']) {
      await small.world.run(100)
      expect(objects.asked.at(-1)).toBe(what)
      await expectNotHeld(small, 'n1')
      objects.answer()
    }
    await small.world.run(100)
    expect((await small.settle(done))?.records).toBe(1)
  })

  it('who leaves without a stream, and pushes what it wrote to a holder that does not answer', async () => {
    const small = await crowded('n1')
    const end = silence(small, 'n1', (real, quiet) => ({
      push: async (...args) => {
        await quiet
        return real.push(...args)
      },
    }))
    small.cluster.natsDown = true
    await small.settle(write(small, 'n1', small.tenant, ['unpublished']))
    const draining = small.process('n1').replica.drain(1000)
    await small.world.run(5000)
    await expectNotHeld(small, 'n1')
    end()
    const { unpublished } = await small.settle(draining)
    // The holders of the other tenant took what was written there as well.
    expect(unpublished).toBe(0)
    expect(await small.read('n2', 'unpublished')).toBeDefined()
  })
})

/** An object store that answers when it is let, one request at a time; it has nothing. */
class Hanging {
  readonly asked: string[] = []
  #answer = () => {}

  answer(): void {
    this.#answer()
  }

  async put(): Promise<void> {
    await this.#wait('put')
  }

  async *folders(): AsyncGenerator<string> {
    await this.#wait('folders')
    yield* []
  }

  #wait(what: string): Promise<void> {
    this.asked.push(what)
    return new Promise(resolve => {
      this.#answer = resolve
    })
  }
}
