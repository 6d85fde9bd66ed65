import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { parseTenantId } from '../../../src/base/ids.ts'
import { offsetTime, systemTime } from '../../../src/base/time.ts'
import type { EmbeddedS3 } from '../../../src/objects/embedded/server.ts'
import type { S3ObjectStore } from '../../../src/objects/s3.ts'
import { planEntity } from '../../../src/rem/plan.ts'
import { byCoverage, SnapshotStore, type Snapshotted } from '../../../src/replication/snapshots.ts'
import { MemoryKv } from '../../../src/storage/memory.ts'
import { Tenant } from '../../../src/tenant/tenant.ts'
import { connectS3, logger, remove, startTestS3, tempFolder } from '../../support/running.ts'

const HOUR_MS = 3_600_000
let folder: string
let s3: EmbeddedS3
let objects: S3ObjectStore

beforeAll(async () => {
  folder = await tempFolder()
  s3 = await startTestS3(folder)
  objects = connectS3(s3.endpoint)
  await objects.prepare()
})
afterAll(async () => {
  objects.close()
  await s3.stop()
  await remove(folder)
})

const openTenant = (name: string) =>
  Tenant.open(parseTenantId(name), new MemoryKv(), {
    time: systemTime,
    origin: 'n1.d1',
    outboxEnabled: true,
    outboxBytesMax: 1e9,
    recordCacheBytes: 1e6,
    onCommit: () => {},
  })
const copyOf = (tenant: Tenant): Snapshotted => ({
  tenant: tenant.id,
  incarnation: tenant.identity.incarnation,
  use: work => work(tenant),
})
const write = (tenant: Tenant, id: string) =>
  tenant.write(({ clock }) => ({ ops: planEntity({ id }, clock), result: undefined }))
const setsOf = async (tenant: Tenant): Promise<string[]> => {
  const ids: string[] = []
  for await (const id of objects.folders(`snapshots/${tenant.id}/${tenant.identity.incarnation}/`)) ids.push(id)
  return ids
}

describe('the snapshots of a tenant', () => {
  it('are newer by what they cover, whatever the clock of the node that stored them', async () => {
    const tenant = await openTenant('clocks')
    const fast = new SnapshotStore(objects, offsetTime(systemTime, HOUR_MS), logger)
    const right = new SnapshotStore(objects, systemTime, logger)
    for (let n = 0; n < 2; n++) {
      await write(tenant, `by the fast one ${n}`)
      await fast.save(copyOf(tenant), 'fast', 'small')
    }
    for (let n = 0; n < 3; n++) {
      await write(tenant, `later ${n}`)
      const saved = await right.save(copyOf(tenant), 'right', 'small')
      const newest = await right.newest(tenant.id, tenant.identity.incarnation)
      expect(newest?.id).toBe(saved.id)
      expect(newest?.vector).toEqual({ 'n1.d1': 3 + n })
    }
    expect(await setsOf(tenant)).toHaveLength(2)
  })

  it('go only when one that stays has all that they have', async () => {
    const [one, other] = [await openTenant('apart'), await openTenant('apart')]
    const store = new SnapshotStore(objects, systemTime, logger)
    // A copy of the same incarnation that has something that nobody else ever gets.
    Object.assign(other.identity, one.identity)
    await other.changeOrigin()
    await write(other, 'only here')
    const alone = await store.save(copyOf(other), 'n2', 'small')
    for (let n = 0; n < 4; n++) {
      await write(one, `e${n}`)
      await store.save(copyOf(one), 'n1', 'small')
    }
    const left = await setsOf(one)
    expect(left).toContain(alone.id)
    expect(left.length).toBeLessThanOrEqual(3)
    expect((await store.newest(one.id, one.identity.incarnation))?.vector).toEqual({ 'n1.d1': 4 })
  })

  it('that another node is storing are left alone; what this node left unfinished goes', async () => {
    const tenant = await openTenant('unfinished')
    const store = new SnapshotStore(objects, systemTime, logger)
    const root = `snapshots/${tenant.id}/${tenant.identity.incarnation}`
    const { Readable } = await import('node:stream')
    for (const id of ['000000000001-n1', '000000000001-n2'])
      await objects.put(`${root}/${id}/part-000000`, Readable.from([Buffer.from('x')]), {})
    await write(tenant, 'e')
    const { id } = await store.save(copyOf(tenant), 'n1', 'small')
    expect((await setsOf(tenant)).sort()).toEqual(['000000000001-n2', id].sort())
  })

  it('are put in one order by coverage first, then by generation', () => {
    const set = (id: string, generation: number, vector: Record<string, number>) => ({ id, generation, vector })
    const sets = [
      set('a', 9, { x: 1 }),
      set('b', 1, { x: 2 }),
      set('c', 2, { y: 1 }),
      set('d', 1, { x: 2, y: 1 }),
      set('e', 5, { z: 1 }),
    ]
    const order = ['e', 'd', 'c', 'b', 'a']
    expect(byCoverage(sets).map(({ id }) => id)).toEqual(order)
    expect(byCoverage(sets.toReversed()).map(({ id }) => id)).toEqual(order)
  })
})
