import pino from 'pino'
import { describe, expect, it } from 'vitest'
import { parseTenantId, type TenantId } from '../../../src/base/ids.ts'
import { Slicer } from '../../../src/base/slice.ts'
import type { Time } from '../../../src/base/time.ts'
import { Applier } from '../../../src/replication/applier.ts'
import type { Copies } from '../../../src/replication/copies.ts'
import { Directory } from '../../../src/replication/directory.ts'
import type { Follower } from '../../../src/replication/follower.ts'
import { Homes } from '../../../src/replication/homes.ts'
import { LeaseProof } from '../../../src/replication/lease-proof.ts'
import { Membership } from '../../../src/replication/membership.ts'
import type { PeerHandlers } from '../../../src/replication/peer.ts'
import type { Placement } from '../../../src/replication/placement.ts'
import { MemoryStream } from '../../../src/stream/memory/adapter.ts'
import { MemoryLog } from '../../../src/stream/memory/log.ts'
import { subjects } from '../../../src/stream/subjects.ts'
import { TenantPool } from '../../../src/tenant/pool.ts'
import { Tenant } from '../../../src/tenant/tenant.ts'
import { SimDatabase, SimKv } from '../../sim/disk.ts'
import { World } from '../../sim/world.ts'

const HOMES = 1000
/** Tenants that are in use when the node leaves: their successors have to reach what was written last. */
const BUSY = 40
const LEASE_MS = 2000
const HANDOVER_MS = 1000
const tenants = Array.from({ length: HOMES }, (_, n) => parseTenantId(`t${n}`))
const logger = pino({ level: 'silent' })

class Node {
  readonly directory: Directory
  readonly membership: Membership
  readonly pool: TenantPool
  readonly homes: Homes
  /** Waits that the successor was asked for. */
  asked = 0

  constructor(node: string, log: MemoryLog, time: Time, link: { isAway: boolean }) {
    const away = async () => {
      await time.sleep(1)
      if (!link.isAway) return
      await time.sleep(400)
      throw new Error('the servers cannot be reached')
    }
    const stream = new MemoryStream(log, { request: away, answer: () => time.sleep(1), push: () => 1 })
    const store = {
      load: async () => ({ placements: [], members: [] }),
      savePlacement: async () => {},
      saveMember: async () => {},
    }
    const timing = { time, logger, leaseMs: LEASE_MS, heartbeatMs: 500, clockSkewMsMax: 5000 }
    this.directory = new Directory({ ...timing, stream, replicas: 1, bytesMax: 0, store, syncStreams: 'per-tenant' })
    this.membership = new Membership({
      ...timing,
      directory: this.directory,
      identity: { node, disk: 'd1', zone: 'z1', tier: 'small', http: '', grpc: '', version: 'test' },
      describe: () => ({ state: 'ready', unpublished: false, tenants: 0, reported: 1 }),
    })
    this.pool = new TenantPool({
      ...timing,
      openMax: 100,
      memoryBytesMax: 1e12,
      tenantBytes: 1,
      idleMs: 60_000,
      waitMsMax: 5000,
      exists: async () => true,
      open: async id => {
        // As long as a real database takes to open on a busy machine.
        await time.sleep(30)
        const kv = new SimKv(new SimDatabase(), { isDead: () => false, wait: () => time.sleep(0.2) })
        return Tenant.open(id, kv, {
          time,
          origin: `${node}.d1`,
          outboxEnabled: true,
          outboxBytesMax: 1e9,
          recordCacheBytes: 1e6,
          changesMax: 50,
          incarnation: 'i',
          copy: false,
          onCommit: () => {},
        } as Parameters<typeof Tenant.open>[2])
      },
    })
    this.homes = new Homes({
      ...timing,
      node,
      directory: this.directory,
      membership: this.membership,
      pool: this.pool,
      proof: new LeaseProof({ ...timing, directory: this.directory }),
      applier: new Applier({ ...timing, onParked: () => {} }),
      copies: { isCurrent: () => true } as unknown as Copies,
      follower: { catchUp: async () => true } as unknown as Follower,
      peers: {
        to: () =>
          ({
            awaitVector: async () => {
              this.asked++
              await time.sleep(50)
              return true
            },
          }) as unknown as PeerHandlers,
      },
      handoverTimeoutMs: HANDOVER_MS,
      moveRestMs: 0,
      isPublished: () => true,
      onLeft: () => {},
    })
  }
}

async function homeOfMany() {
  Slicer.sliceMs = Number.POSITIVE_INFINITY
  const world = new World(3)
  const time = world.timeOf({ skewMs: 0, isDead: false })
  const log = new MemoryLog(time)
  const link = { isAway: false }
  const [leaving, staying] = ['n1', 'n2'].map(id => new Node(id, log, time, link))
  for (const node of [leaving!, staying!]) {
    await node.directory.start()
    void node.membership.start()
  }
  await world.run(3000)
  const placement = (tenant: TenantId): Placement => ({
    tenant,
    incarnation: 'i',
    tier: 'small',
    holders: [
      { node: 'n1', state: 'active' },
      { node: 'n2', state: 'active' },
    ],
    home: 'n1',
    epoch: 1,
    version: 1,
    changedAtMs: 0,
  })
  for (const tenant of tenants)
    log.write(subjects.clusterBucket, subjects.tenantKey(tenant), Buffer.from(JSON.stringify(placement(tenant))))
  await world.run(3000)
  await world.settle(Promise.all(tenants.slice(0, BUSY).map(id => leaving!.pool.use(id, async () => {}))), 10_000)
  return { world, leaving: leaving!, staying: staying!, link }
}

describe('a node that leaves', () => {
  it('hands over a thousand homes in less than ten seconds, and opens none that was closed', async () => {
    const { world, leaving, staying } = await homeOfMany()
    expect(leaving.homes.count).toBe(HOMES)
    const { opened } = leaving.pool.stats()
    const fromMs = world.nowMs
    const outcome = await world.settle(leaving.homes.handOverAll(60_000), 60_000)
    expect(outcome).toEqual({ value: 0 })
    expect(world.nowMs - fromMs).toBeLessThan(10_000)
    expect(leaving.homes.count).toBe(0)
    expect(leaving.pool.stats().opened).toBe(opened)
    // Those that were in use were waited for.
    expect(leaving.asked).toBe(BUSY)
    await world.run(3000)
    expect(staying.homes.count).toBe(HOMES)
    // Nothing is left for a second call.
    const againMs = world.nowMs
    expect(await world.settle(leaving.homes.handOverAll(60_000), 60_000)).toEqual({ value: 0 })
    expect(world.nowMs - againMs).toBeLessThan(100)
  })

  it('keeps to one deadline, however many there are', async () => {
    const { world, leaving, link } = await homeOfMany()
    link.isAway = true
    const fromMs = world.nowMs
    const outcome = await world.settle(leaving.homes.handOverAll(3000), 60_000)
    expect(outcome).toEqual({ value: HOMES })
    // What was under way at the deadline waits for its answer.
    expect(world.nowMs - fromMs).toBeLessThan(3000 + HANDOVER_MS)
  })
})
