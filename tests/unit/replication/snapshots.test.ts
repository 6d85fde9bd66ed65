import { Readable } from 'node:stream'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { parseTenantId } from '../../../src/base/ids.ts'
import { offsetTime, systemTime } from '../../../src/base/time.ts'
import type { EmbeddedS3 } from '../../../src/objects/embedded/server.ts'
import type { S3ObjectStore } from '../../../src/objects/s3.ts'
import { planEntity } from '../../../src/rem/plan.ts'
import { byCoverage, holdsAll, type Positions } from '../../../src/replication/manifest.ts'
import { SnapshotStore, type Snapshotted } from '../../../src/replication/snapshots.ts'
import { decodeEntry, encodeEntry } from '../../../src/storage/codec.ts'
import { keys } from '../../../src/storage/keys.ts'
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
const park = (tenant: Tenant, sequences: readonly number[]) =>
  tenant.change(async staging => {
    for (const sequence of sequences) {
      const clock = { wall: Date.now() + HOUR_MS, counter: sequence, origin: 'gone' }
      const { incarnation } = tenant.identity
      const entry = { tenant: tenant.id, incarnation, origin: 'gone', sequence, ops: planEntity({ id: 'e' }, clock) }
      staging.put(keys.parked('gone', sequence), encodeEntry(entry))
    }
  })
const parkedIn = async (store: SnapshotStore, tenant: Tenant): Promise<number[]> => {
  const sequences: number[] = []
  for await (const page of (await store.stored(tenant.id, tenant.identity.incarnation))!.parked)
    sequences.push(...page.map(bytes => decodeEntry(bytes).sequence))
  return sequences
}
const setAside = (tenant: Tenant, sequences: readonly number[]) =>
  tenant.change(async staging => {
    for (const sequence of sequences) {
      const clock = { wall: 1, counter: sequence, origin: 'gone' }
      const { incarnation } = tenant.identity
      const entry = { tenant: tenant.id, incarnation, origin: 'gone', sequence, ops: planEntity({ id: 'e' }, clock) }
      staging.put(keys.quarantine('gone', sequence), encodeEntry(entry))
    }
  })
const lateIn = async (store: SnapshotStore, tenant: Tenant): Promise<number[]> => {
  const sequences: number[] = []
  for await (const page of (await store.stored(tenant.id, tenant.identity.incarnation))!.late)
    sequences.push(...page.map(bytes => decodeEntry(bytes).sequence))
  return sequences
}
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
    for (const id of ['000000000001-n1', '000000000001-n2'])
      await objects.put(`${root}/${id}/part-000000`, Readable.from([Buffer.from('x')]), {})
    await write(tenant, 'e')
    const { id } = await store.save(copyOf(tenant), 'n1', 'small')
    expect((await setsOf(tenant)).sort()).toEqual(['000000000001-n2', id].sort())
  })

  it('have what is parked, of every set that is kept, each entry once', async () => {
    const [one, other] = [await openTenant('parked'), await openTenant('parked')]
    Object.assign(other.identity, one.identity)
    const store = new SnapshotStore(objects, systemTime, logger)
    await park(other, [1, 2, 3])
    const alone = await store.save(copyOf(other), 'n2', 'small')
    expect(alone.parked).toEqual({ gone: [[1, 3]] })
    await park(one, [2, 4])
    for (let n = 0; n < 3; n++) {
      await write(one, `e${n}`)
      await store.save(copyOf(one), 'n1', 'small')
    }
    // The set that alone has some of them stays, however old its vector is.
    expect(await setsOf(one)).toContain(alone.id)
    expect(await parkedIn(store, one)).toEqual([2, 4, 1, 3])
    // Applied is as good as parked.
    await one.change(async staging => staging.joinVector(new Map([['gone', 3]])))
    for (let n = 0; n < 2; n++) await store.save(copyOf(one), 'n1', 'small')
    expect(await setsOf(one)).not.toContain(alone.id)
  })

  it('whose parked entries were altered are refused, and the one before is taken', async () => {
    const tenant = await openTenant('altered')
    const store = new SnapshotStore(objects, systemTime, logger)
    await park(tenant, [1])
    const before = await store.save(copyOf(tenant), 'n1', 'small')
    await write(tenant, 'e')
    const { id } = await store.save(copyOf(tenant), 'n1', 'small')
    const key = `snapshots/${tenant.id}/${tenant.identity.incarnation}/${id}/parked-000000`
    await objects.put(key, Readable.from([Buffer.from('x')]), {})
    await expect(parkedIn(store, tenant)).rejects.toMatchObject({ code: 'SNAPSHOT_INVALID' })
    expect((await store.newest(tenant.id, tenant.identity.incarnation))?.id).toBe(before.id)
    expect(await parkedIn(store, tenant)).toEqual([1])
  })

  it('have what is set aside, until a later set of the same disk says that it was decided', async () => {
    const [one, other] = [await openTenant('late'), await openTenant('late')]
    Object.assign(other.identity, one.identity)
    Object.defineProperty(other, 'origin', { value: 'n2.other' })
    const store = new SnapshotStore(objects, systemTime, logger)
    await setAside(other, [1, 2, 3])
    const alone = await store.save(copyOf(other), 'n2', 'small')
    expect(alone.late).toEqual({ gone: [[1, 3]] })
    await setAside(one, [2, 4])
    for (let n = 0; n < 3; n++) {
      await write(one, `e${n}`)
      await store.save(copyOf(one), 'n1', 'small')
    }
    // The set of another disk that alone has some of it stays, however old its vector is.
    expect(await setsOf(one)).toContain(alone.id)
    expect(await lateIn(store, one)).toEqual([2, 4, 1, 3])
    await one.change(async staging => staging.del(keys.quarantine('gone', 4)))
    await other.change(async staging => {
      for (const sequence of [1, 3]) staging.del(keys.quarantine('gone', sequence))
    })
    await store.save(copyOf(one), 'n1', 'small')
    await store.save(copyOf(other), 'n2', 'small')
    expect(await lateIn(store, one)).toEqual([2])
    for (let n = 0; n < 2; n++) await store.save(copyOf(one), 'n1', 'small')
    expect(await setsOf(one)).not.toContain(alone.id)
  })

  it('of builds that left out what is parked are read as they are', async () => {
    const tenant = await openTenant('older')
    const store = new SnapshotStore(objects, systemTime, logger)
    await write(tenant, 'e')
    const { id } = await store.save(copyOf(tenant), 'n1', 'small')
    const { incarnation } = tenant.identity
    // Nothing is parked, so this set is what they wrote, but for the name of the disk.
    const { body } = await objects.get(`snapshots/${tenant.id}/${incarnation}/${id}/manifest.json`)
    const fields = Object.keys(JSON.parse(Buffer.concat(await body.toArray()).toString()))
    expect(fields).not.toContain('parked')
    expect(fields).not.toContain('late')
    expect(await parkedIn(store, tenant)).toEqual([])
    expect(await lateIn(store, tenant)).toEqual([])
    let records = 0
    for await (const part of (await store.stored(tenant.id, incarnation))!.parts)
      if ('records' in part) records += part.records.length
    expect(records).toBe(1)
  })

  it('hold a parked entry when it is parked or applied there', () => {
    const holds = (vector: Record<string, number>, parked: Positions, wanted: Positions) =>
      holdsAll({ vector: new Map(Object.entries(vector)), parked }, { vector: new Map(), parked: wanted })
    const wanted: Positions = { a: [[3, 5]] }
    expect(holds({}, {}, wanted)).toBe(false)
    expect(holds({ a: 5 }, {}, wanted)).toBe(true)
    expect(holds({ a: 4 }, {}, wanted)).toBe(false)
    expect(holds({ a: 4 }, { a: [[5, 5]] }, wanted)).toBe(true)
    expect(holds({}, { a: [[1, 9]] }, wanted)).toBe(true)
    expect(holds({}, { a: [[3, 4]] }, wanted)).toBe(false)
    expect(holds({}, { b: [[3, 5]] }, wanted)).toBe(false)
    const set = (id: string, generation: number, vector: Record<string, number>, parked: Positions) => ({
      id,
      generation,
      vector,
      parked: { positions: parked, parts: [] },
    })
    const sets = [set('a', 9, { x: 1 }, wanted), set('b', 1, { x: 2 }, wanted), set('c', 2, { x: 2 }, {})]
    expect(byCoverage(sets).map(({ id }) => id)).toEqual(['b', 'c', 'a'])
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
