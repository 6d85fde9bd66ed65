import { describe, expect, it } from 'vitest'
import { PercolateError } from '../../../src/base/errors.ts'
import { parseTenantId } from '../../../src/base/ids.ts'
import { Slicer } from '../../../src/base/slice.ts'
import { planEntity } from '../../../src/rem/plan.ts'
import type { LwwRecord, RecordRef } from '../../../src/rem/record.ts'
import { subjects } from '../../../src/stream/subjects.ts'
import { type SimAnswer, SimCluster, type SimNode, TIMES, versionOf } from '../../sim/cluster.ts'
import { World } from '../../sim/world.ts'

const acme = parseTenantId('acme')
const ref: RecordRef = { kind: 'entity', key: ['counter'] }

/** Nodes on simulated time, one tenant with its home on the first of them, and who decided which version. */
class Deciders {
  readonly world = new World(7)
  readonly cluster: SimCluster
  /** Per version, the nodes whose answer said that the write stands. */
  readonly decided = new Map<string, string[]>()
  readonly refusals = new Map<string, number>()
  version = 'none'
  #writes = 0

  constructor(nodes = 3) {
    Slicer.sliceMs = Number.POSITIVE_INFINITY
    this.cluster = new SimCluster(this.world, nodes)
    for (const node of this.cluster.nodes) node.start()
  }

  async begin(): Promise<void> {
    await this.world.run(4000)
    await this.write(this.cluster.nodes[0]!, 'none', 'replicated')
    // Every copy is there, and the directory is older than a lease.
    await this.world.run(4000)
  }

  get homeNode(): SimNode {
    const home = this.record?.home
    return this.cluster.node(home ?? '')!
  }

  get record() {
    const found = this.cluster.log.bucket(subjects.clusterBucket).records.get(subjects.tenantKey(acme))
    return (
      found && (JSON.parse(found.value.toString()) as { home?: string; epoch: number; holders: { node: string }[] })
    )
  }

  /** A conditional write, sent to one node. */
  async send(
    node: SimNode,
    ifVersion: string,
    durability: 'local' | 'stream' | 'replicated' = 'stream',
  ): Promise<SimAnswer | undefined> {
    const n = ++this.#writes
    try {
      const answer = await node.process!.handle(
        {
          tenant: acme,
          ref,
          ifVersion,
          durability,
          write: (_: LwwRecord | undefined, clock) => planEntity({ id: 'counter', properties: { n } }, clock),
        },
        undefined,
      )
      this.decided.set(ifVersion, [...(this.decided.get(ifVersion) ?? []), answer.node])
      this.version = versionOf({ put: answer.clock, del: undefined, fields: new Map() })
      return answer
    } catch (error) {
      if (!(error instanceof PercolateError)) throw error
      this.refusals.set(error.code, (this.refusals.get(error.code) ?? 0) + 1)
      return undefined
    }
  }

  async write(...args: Parameters<Deciders['send']>): Promise<SimAnswer | undefined> {
    const outcome = await this.world.settle(this.send(...args), 30_000)
    return outcome && 'value' in outcome ? outcome.value : undefined
  }

  /** Everybody tries to be the next, on every node at once, for `ms`. */
  async contend(ms: number): Promise<void> {
    const until = this.world.nowMs + ms
    while (this.world.nowMs < until) {
      const { version } = this
      const running = this.cluster.nodes.filter(({ process }) => process)
      await this.world.settle(Promise.all(running.map(node => this.send(node, version))), 30_000)
      await this.world.run(20)
    }
  }

  /** Asks the home, through each node: a write whose answer was a refusal may stand. Undefined: nobody could say. */
  async readHome(): Promise<SimAnswer | undefined> {
    for (const { process } of this.cluster.nodes) {
      if (!process) continue
      const read = process.handle({ tenant: acme, ref, ifVersion: '' }, undefined).catch(() => undefined)
      const outcome = await this.world.settle(read, 30_000)
      const answer = outcome && 'value' in outcome ? outcome.value : undefined
      if (answer) this.version = versionOf(answer.record)
      if (answer) return answer
    }
    return undefined
  }

  get twice(): [string, string[]][] {
    return [...this.decided].filter(([, nodes]) => nodes.length > 1)
  }
}

describe('two homes never decide at once', () => {
  it('while the watches of the directory are deaf, and get and put work', async () => {
    const deciders = new Deciders()
    await deciders.begin()
    const home = deciders.homeNode.id
    const hear = deciders.cluster.log.deafen(subjects.clusterBucket)
    await deciders.contend(10_000)
    hear()
    await deciders.contend(3000)
    expect(deciders.twice).toEqual([])
    // The home was alive all the time: nobody had a reason to take its place.
    expect(deciders.homeNode.id).toBe(home)
    expect(deciders.decided.size).toBeGreaterThan(20)
  })

  it('when the home is cut from the directory and everybody is deaf', async () => {
    const deciders = new Deciders()
    await deciders.begin()
    const first = deciders.homeNode
    deciders.cluster.log.deafen(subjects.clusterBucket)
    first.natsCut = true
    await deciders.contend(8000)
    first.natsCut = false
    await deciders.contend(8000)
    expect(deciders.twice).toEqual([])
    expect(deciders.homeNode.id).not.toBe(first.id)
  })
})

describe('a copy that has not read the stream to its end', () => {
  it('does not become the home, and does not call itself caught up', async () => {
    const deciders = new Deciders()
    await deciders.begin()
    const first = deciders.homeNode
    const { cluster, world } = deciders
    const heir = cluster.nodes.find(
      node => node !== first && deciders.record!.holders.some(holder => holder.node === node.id),
    )!
    const { follower, homes } = heir.process!.replica
    // The stream says that it has more, and gives none of it.
    const stream = cluster.log.stream(subjects.syncStream(acme))
    stream.lastSequence += 500
    first.process!.kill()
    await world.run(2 * TIMES.leaseMs)
    expect(await world.settle(follower.catchUp(acme, 3000), 10_000)).toEqual({ value: false })
    expect(await world.settle(homes.take(acme), 60_000)).toEqual({ value: false })
    expect(heir.process!.replica.homes.holdsLease(acme)).toBe(false)
  })
})

describe('a home that is gone', () => {
  it('is followed within two leases and a round of the controller', async () => {
    const deciders = new Deciders()
    await deciders.begin()
    const first = deciders.homeNode
    const { version } = deciders
    first.process!.kill()
    const diedAtMs = deciders.world.nowMs
    let answer: SimAnswer | undefined
    while (!answer && deciders.world.nowMs < diedAtMs + 60_000) {
      for (const node of deciders.cluster.nodes)
        if (node.process && !answer) answer = await deciders.write(node, version)
      await deciders.world.run(50)
    }
    expect(answer?.node).not.toBe(first.id)
    expect(deciders.world.nowMs - diedAtMs).toBeLessThan(2 * TIMES.leaseMs)
  })
})

describe('a home that was cut off while another one took its place', () => {
  it('claims nothing when the directory is put back to before that, where its own record is as it left it', async () => {
    const deciders = new Deciders()
    await deciders.begin()
    const { cluster, world } = deciders
    const { log } = cluster
    const records = () => log.bucket(subjects.clusterBucket).records
    const holders = () =>
      cluster.nodes.filter(({ process }) => process!.replica.homes.holdsLease(acme)).map(({ id }) => id)
    const first = deciders.homeNode
    first.natsCut = true
    const before = [...records().values()]
    while (holders().every(node => node === first.id) && world.nowMs < 60_000) await deciders.contend(200)
    const [second] = holders()
    expect(second).toBe(deciders.homeNode.id)
    const renewals = () => records().get(subjects.memberKey(second!))!.revision
    const { membership, homes } = first.process!.replica
    const { term } = membership
    // Just renewed: the second one finds nothing out for a heartbeat.
    const renewed = renewals()
    expect(await world.runUntil(() => renewals() !== renewed, TIMES.leaseMs)).toBe(true)
    await world.run(20)
    log.restoreBucket(subjects.clusterBucket, before)
    first.natsCut = false
    await world.settle(membership.beat(), 10_000)
    await world.settle(homes.find(acme), 10_000)
    // Each has a lease by what it can know; the first one's renewal was a compare-and-set that succeeded.
    expect([membership.term, membership.hasLease]).toEqual([term + 1, true])
    expect(holders()).toEqual([second])
    const decided = deciders.decided.size
    await deciders.contend(100)
    expect(deciders.decided.size).toBeGreaterThan(decided)
    await world.run(2 * TIMES.leaseMs)
    await deciders.readHome()
    await deciders.contend(2000)
    expect(deciders.twice).toEqual([])
    expect(holders()).toHaveLength(1)
  })
})

describe('a directory that was lost while nodes run, its revisions begun anew', () => {
  /** How long the home answered nobody, nor decided, from now on. */
  const pauseMs = async (deciders: Deciders, msMax = 60_000): Promise<number> => {
    const sinceMs = deciders.world.nowMs
    const before = deciders.decided.size
    while (deciders.decided.size === before && deciders.world.nowMs < sinceMs + msMax) {
      await deciders.contend(200)
      await deciders.readHome()
    }
    return deciders.world.nowMs - sinceMs
  }
  /** A look at the directory, the lease that nobody decides for then, and what requests and heartbeats add. */
  const boundMs = 2 * TIMES.leaseMs + 4000
  const unsettledMs = ({ cluster }: Deciders) =>
    cluster.nodes.map(({ process }) => process!.replica.directory.unsettledMs)

  it('is noticed by every node, also where the watch stays silent, and is judged anew from there', async () => {
    const deciders = new Deciders()
    await deciders.begin()
    await deciders.world.run(60_000)
    expect(Math.max(...unsettledMs(deciders))).toBeLessThan(boundMs)
    deciders.cluster.log.dropBucket(subjects.clusterBucket)
    expect(await pauseMs(deciders)).toBeLessThan(boundMs)
    await deciders.contend(10_000)
    expect(await deciders.readHome()).toBeDefined()
    expect(deciders.twice).toEqual([])
    expect(Math.max(...unsettledMs(deciders))).toBeLessThan(boundMs)
    for (const { process } of deciders.cluster.nodes) expect(process!.replica.directory.lost).toBe(1)
  })

  it('goes with every stream, as when the servers lose their stores: what was acknowledged is there afterwards', async () => {
    const deciders = new Deciders()
    await deciders.begin()
    await deciders.contend(3000)
    await deciders.world.run(60_000)
    const { cluster, world } = deciders
    cluster.natsDown = true
    await world.run(1500)
    cluster.log.dropBucket(subjects.clusterBucket)
    for (const name of [...cluster.log.streams.keys()]) cluster.log.deleteStream(name)
    cluster.natsDown = false
    expect(await pauseMs(deciders)).toBeLessThan(boundMs)
    await deciders.contend(10_000)
    expect(await deciders.readHome()).toBeDefined()
    expect(deciders.twice).toEqual([])
    // Every decision rests on the one before it: the last one is found only by who has them all.
    expect(deciders.decided.size).toBeGreaterThan(20)
  })

  it('or was put back as it was a while ago', async () => {
    const deciders = new Deciders()
    await deciders.begin()
    const { log } = deciders.cluster
    const records = [...log.bucket(subjects.clusterBucket).records.values()]
    await deciders.world.run(60_000)
    log.restoreBucket(subjects.clusterBucket, records)
    expect(await pauseMs(deciders)).toBeLessThan(boundMs)
    await deciders.contend(10_000)
    expect(await deciders.readHome()).toBeDefined()
    expect(deciders.twice).toEqual([])
    for (const { process } of deciders.cluster.nodes) expect(process!.replica.directory.lost).toBe(1)
  })

  it('makes the metric grow that an operator is told by, for as long as nothing can be said of leases', async () => {
    const deciders = new Deciders()
    await deciders.begin()
    await deciders.world.run(10_000)
    deciders.cluster.natsDown = true
    await deciders.world.run(30_000)
    for (const ms of unsettledMs(deciders)) expect(ms).toBeGreaterThan(28_000)
  })
})
