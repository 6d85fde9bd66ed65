import { describe, expect, it } from 'vitest'
import { parseTenantId, type TenantId } from '../../src/base/ids.ts'
import { planEntity } from '../../src/rem/plan.ts'
import { encodeEntry } from '../../src/storage/codec.ts'
import { keys } from '../../src/storage/keys.ts'
import { subjects } from '../../src/stream/subjects.ts'
import type { SimCluster } from './cluster.ts'
import { SimDatabase } from './disk.ts'
import { newHistory } from './history.ts'
import { checkerOf } from './objections.ts'
import { checkIdle, checkRefused, isIdle, notCurrent, unrest } from './rest.ts'
import { Watch } from './watch.ts'

const a = parseTenantId('a')

/** What may be wrong with a node of a doctored cluster at rest, in which both nodes hold tenant `a`. */
interface Doctored {
  readonly state?: string
  readonly outbox?: number
  readonly isCollected?: boolean
  readonly hasParked?: boolean
  readonly hasHole?: boolean
  readonly hasRead?: boolean
  readonly vector?: number
  readonly floor?: number
  readonly leases?: number
  readonly known?: readonly string[]
  readonly copies?: readonly string[]
  readonly disk?: readonly string[]
  readonly isDown?: boolean
}

interface Servers {
  readonly keys?: readonly string[]
  readonly streams?: readonly string[]
  readonly holders?: readonly { node: string; state: string }[]
}

const HOLDERS = ['n1', 'n2'].map(node => ({ node, state: 'active' }))

function nodeOf(id: string, doctored: Doctored, servers: Servers) {
  const placement = { tenant: a, holders: servers.holders ?? HOLDERS }
  const { state = 'current', known = [] } = doctored
  const open = {
    id: a,
    outbox: { entries: doctored.outbox ?? 0 },
    isCollected: doctored.isCollected ?? true,
    vector: new Map([['n1.d1', doctored.vector ?? 3]]),
    floor: { clock: { wall: doctored.floor ?? 1, counter: 0, origin: 'n1.d1' } },
  }
  const replica = {
    directory: {
      placement: (tenant: TenantId) => (tenant === a ? placement : undefined),
      placements: () => [placement, ...known.map(tenant => ({ tenant, holders: [] }))],
    },
    copies: {
      state: () => state,
      reason: () => 'it is doctored',
      isCurrent: () => state === 'current',
      tenants: () => [a, ...(doctored.copies ?? [])],
    },
    homes: { holdsLease: () => false },
    publisher: { describe: () => '' },
    maintenance: { hasParked: () => doctored.hasParked ?? false },
    applier: { hasHole: () => doctored.hasHole ?? false },
    follower: { hasRead: () => doctored.hasRead ?? true },
  }
  return {
    id,
    disk: {
      id: 'd1',
      databases: new Map([a, ...(doctored.disk ?? [])].map(tenant => [tenant as string, new SimDatabase()])),
    },
    process: doctored.isDown
      ? undefined
      : {
          pausedUntilMs: 0,
          replica,
          pool: { openTenants: () => [open], stats: () => ({ leases: doctored.leases ?? 0 }) },
        },
  }
}

function clusterOf(second: Doctored = {}, servers: Servers = {}): SimCluster {
  const nodes = [nodeOf('n1', {}, servers), nodeOf('n2', second, servers)]
  return {
    nodes,
    node: (id: string) => nodes.find(node => node.id === id),
    settings: { replicas: 2 },
    counts: new Map(),
    world: { nowMs: 5 },
    note: () => {},
    log: {
      bucket: () => ({ records: new Map((servers.keys ?? []).map(key => [key, {}])) }),
      streams: new Map((servers.streams ?? []).map(name => [name, {}])),
    },
  } as unknown as SimCluster
}

describe('the checkers of a cluster after its last fault, on doctored ones', () => {
  it('find a copy that does not answer yet (recovery)', () => {
    expect(notCurrent(clusterOf(), [a])).toBe('')
    expect(notCurrent(clusterOf({ state: 'verifying' }), [a])).toBe('a on n2 is verifying: it is doctored')
    expect(notCurrent(clusterOf({ isDown: true }), [a])).toMatch(/^a on n2 is undefined/)
  })

  it('find what is not at rest', () => {
    const find = (second: Doctored, servers?: Servers) => unrest(clusterOf(second, servers), [a], false)
    expect(find({})).toBe('')
    expect(find({ state: 'joining' })).toMatch(/a on n2 is joining/)
    expect(find({ outbox: 2 })).toMatch(/2 entries to publish/)
    expect(find({ hasParked: true })).toMatch(/has parked entries/)
    expect(find({ isCollected: false })).toMatch(/has garbage/)
    expect(find({ hasHole: true })).toMatch(/has a hole/)
    expect(find({ vector: 2 })).toMatch(/has vectors/)
    expect(find({ floor: 2 })).toMatch(/has floors/)
    expect(find({}, { holders: HOLDERS.slice(1) })).toMatch(/has holders/)
    expect(find({}, { holders: [HOLDERS[0]!, { node: 'n2', state: 'dropping' }] })).toMatch(/has holders/)
    expect(find({}, { holders: [...HOLDERS, { node: 'n3', state: 'active' }] })).toMatch(/has holders/)
    expect(unrest(clusterOf({ outbox: 2, hasHole: true }), [a], true)).toMatch(/to publish.*; .*a hole/)
  })

  it('find tenants that stay in use, and processes that go on asking', () => {
    expect(isIdle(clusterOf().nodes)).toBe(true)
    expect(isIdle(clusterOf({ leases: 1 }).nodes)).toBe(false)
    const counted = (requests: number) => new Map([['n1', requests]])
    expect(checkIdle(counted(0), 5000)).toEqual([])
    expect(checkIdle(counted(80), 5000)).toEqual([])
    expect(checkIdle(counted(81), 5000).join()).toMatch(/n1 asks the servers 16\.2 times a second/)
  })

  it('find what is left of tenants of which every request was refused', () => {
    const refused = new Set(['r'])
    const find = (second: Doctored, servers?: Servers) => checkRefused(clusterOf(second, servers), refused).join()
    expect(find({})).toBe('')
    expect(find({ known: ['other'], copies: ['other'], disk: ['other'] })).toBe('')
    expect(find({ known: ['r'] })).toMatch(/n2 knows 1 tenants, has copies of 0 and holds 0 .* such as r/)
    expect(find({ copies: ['r'] })).toMatch(/has copies of 1/)
    expect(find({ disk: ['r'] })).toMatch(/holds 1/)
    expect(find({}, { keys: [subjects.tenantKey(parseTenantId('other'))] })).toBe('')
    expect(find({}, { keys: [subjects.tenantKey(parseTenantId('r'))] })).toMatch(/the servers have 1 keys/)
    expect(find({}, { streams: [subjects.syncStream(parseTenantId('r'))] })).toMatch(/and 1 streams/)
  })

  it('find a node that says that it has read a stream, and lacks what is in it', () => {
    const ops = planEntity({ id: 'e' }, { wall: 1, counter: 0, origin: 'n1.d1' })
    const data = encodeEntry({ tenant: a, incarnation: '1', origin: 'n1.d1', sequence: 3, ops })
    const look = (second: Doctored, fault?: string, parked = false) => {
      const cluster = clusterOf(second)
      const name = subjects.syncStream(a)
      const stream = { incarnation: 's1', lastSequence: 7, messages: [{ sequence: 7, data }] }
      cluster.log.streams.set(name, stream as never)
      if (fault) cluster.counts.set(fault, 1)
      if (parked)
        cluster.nodes[1]!.disk.databases.get(a)!.write(
          [{ type: 'put', key: keys.parked('n1.d1', 3), value: data }],
          true,
        )
      const history = newHistory()
      new Watch(cluster, [a], history).look()
      return history.violations.join()
    }
    expect(look({})).toBe('')
    expect(look({ vector: 2 })).toBe('n2 says that it has read the stream of a, and lacks n1.d1/3')
    expect(look({ vector: 2, hasRead: false })).toBe('')
    expect(look({ vector: 2, state: 'verifying' })).toBe('')
    // Sequences that are given out again tell nothing of what was read under them before.
    expect(look({ vector: 2 }, 'fault: stream tail lost')).toBe('')
    expect(look({ vector: 2 }, undefined, true)).toBe('')
  })

  it('each say who objects', () => {
    const said = {
      'a: entity e property:p written at 1 (stream, disk d1n1) is lost: absent': 'acknowledged writes',
      'a: entity e is back from before its acknowledged delete at 1: absent': 'acknowledged writes',
      'a: the delete of entity e at 1 is lost: absent': 'acknowledged writes',
      'a has no copy left, and entity e was acknowledged': 'acknowledged writes',
      'a: a write was acknowledged at level stream, and no stream has had n1/1': 'acknowledged writes',
      'a: entity e differs between n1 and n2: absent / absent': 'equal copies',
      'a: the vectors of n1 and n2 differ: {} / {}': 'equal copies',
      'n1 still has 3 entries of a to publish': 'equal copies',
      'n1, a: an index entry is missing': 'equal copies',
      "n1 shows a another tenant's entity e property:p": 'equal copies',
      'a: two copies with the same history differed': 'equal copies',
      'the copy of a on n1 cannot be read: undefined': 'equal copies',
      'conditional writes of a entity counter: both': 'linearizability',
      'n1 and n2 are the home of a at once': 'one home',
      'n1 calls its copy of a current, and lacks a write that it acknowledged': 'honest copies',
      'n1 says that it has read the stream of a, and lacks n1.d1/3': 'honest copies',
      'a feed of a passed over 1 changes without saying so, such as entity e': 'feeds',
      'a feed told of 1, which nobody wrote': 'feeds',
      'a: a read of entity e with a bookmark does not see the write at 1': 'bookmarks',
      'n1 knows 1 tenants, has copies of 0 and holds 0 of which every request was refused, such as r':
        'refused requests',
      '60 s after the last fault not every copy is current: a on n1 is joining': 'recovery',
      'the cluster did not come to rest: a on n1 has a hole': 'rest',
      'tenants are in use all the time while nothing happens': 'rest',
      'n1 asks the servers 20 times a second while nothing happens': 'rest',
      'an operation failed with TypeError': 'answers',
    }
    expect(Object.fromEntries(Object.keys(said).map(text => [text, checkerOf(text)]))).toEqual(said)
    expect(() => checkerOf('something else')).toThrow(/No checker/)
  })
})
