import { describe, expect, it } from 'vitest'
import { parseTenantId } from '../../../src/base/ids.ts'
import { systemTime } from '../../../src/base/time.ts'
import { planFloor } from '../../../src/rem/floor.ts'
import { planEntity } from '../../../src/rem/plan.ts'
import { setAsideSettled } from '../../../src/replication/anti-entropy.ts'
import { exportCopy, exportRecords } from '../../../src/replication/export.ts'
import {
  decodePart,
  digestTenant,
  encodePart,
  importTransfer,
  mergeTransferred,
} from '../../../src/replication/transfer.ts'
import { decodeEntry } from '../../../src/storage/codec.ts'
import { keys, prefixes, prefixRange, space } from '../../../src/storage/keys.ts'
import { collect } from '../../../src/storage/kv.ts'
import { MemoryKv } from '../../../src/storage/memory.ts'
import { ChangeReader, LogGap } from '../../../src/tenant/change-reader.ts'
import { Tenant } from '../../../src/tenant/tenant.ts'

const openCopy = (node: string, { changesMax = 1000, copy = false } = {}) =>
  Tenant.open(parseTenantId('acme'), new MemoryKv(), {
    time: systemTime,
    origin: `${node}.d`,
    incarnation: '000000000001-0000000000000000',
    copy,
    changesMax,
    outboxEnabled: true,
    outboxBytesMax: 1e9,
    recordCacheBytes: 1e6,
    onCommit: () => {},
  })
const put = (tenant: Tenant, id: string) =>
  tenant.write(({ clock }) => ({ ops: planEntity({ id, properties: { id } }, clock), result: undefined }))
const deliver = async (from: Tenant, to: Tenant) => {
  for (const [, value] of await collect(from, prefixRange(prefixes.space(space.outbox))))
    await to.apply(decodeEntry(value))
}
const REF = { kind: 'entity', key: ['r'] } as const
const KEY = keys.record(REF)

/** What a follower is told from a position on, until it has all. */
async function told(tenant: Tenant, from: ChangeReader['position'], reader?: ChangeReader): Promise<string[]> {
  const following = reader ?? (await ChangeReader.start(tenant, from))
  const changes: string[] = []
  while (following.isBehind(tenant))
    for (const step of await following.read(tenant))
      changes.push(...(step.changes ?? []).map(({ action, key }) => `${action} ${key}`))
  return changes
}
const now = async (tenant: Tenant) => (await ChangeReader.start(tenant, 'now')).position
const repair = async (copy: Tenant, from: Tenant) =>
  mergeTransferred(copy, await exportRecords(from, [KEY]), new Map(from.reach))

/** Two copies of the same entries, of which the second has lost a record; the first has begun a life of its own log. */
async function differing(changesMax?: number): Promise<[Tenant, Tenant]> {
  const [b, c] = [await openCopy('b'), await openCopy('c', changesMax ? { changesMax } : {})]
  for (const id of ['q', 'r']) await put(b, id)
  await deliver(b, c)
  await c.change(staging => staging.remove(REF))
  expect(c.vector).toEqual(b.vector)
  return [b, c]
}

describe('what a repair brings to a copy with the same vector', () => {
  it('is told to who resumes from before it, on that copy or coming from another one, and to nobody twice', async () => {
    const [b, c] = await differing()
    const before = await now(c)
    const elsewhere = await now(b)
    expect(await repair(c, b)).toBe(1)
    for (const position of [before, elsewhere]) expect(await told(c, position)).toContain('put r')
    const reader = await ChangeReader.start(c, before)
    await told(c, before, reader)
    expect(await told(c, reader.position)).toEqual([])
    expect(await told(c, await now(c))).toEqual([])
    // It goes on as ever.
    await put(c, 'later')
    expect(await told(c, reader.position)).toEqual(['put later'])
  })

  it('ends the feed of who resumes from before it where the log does not tell of it any more', async () => {
    const [b, c] = await differing(2)
    const before = await now(c)
    await repair(c, b)
    for (let n = 0; n < 3; n++) await put(c, `later ${n}`)
    const behind = { ...before, vector: new Map(c.vector) }
    await expect(ChangeReader.start(c, behind)).rejects.toThrow(LogGap)
  })

  it('is told when it takes a record out', async () => {
    const [b, c] = await differing()
    const clock = { wall: systemTime.now() + 1, counter: 0, origin: 'floor' }
    const vector = new Map(b.vector)
    await b.write(() => ({ ops: [planFloor({ clock, vector })], result: undefined }))
    await deliver(b, c)
    const before = await now(b)
    expect(await setAsideSettled(b, [KEY], await digestTenant(c))).toBe(1)
    expect(await told(b, before)).toContain('del r')
  })

  it('is in a copy made of the repaired one, for which positions from before are too old', async () => {
    const [b, c] = await differing()
    const before = await now(c)
    await repair(c, b)
    const made = await openCopy('d', { copy: true })
    const sent = async function* () {
      for await (const part of exportCopy(work => work(c), 'c', undefined)) yield decodePart(encodePart(part))
    }
    await importTransfer(work => work(made), sent(), { resumable: true })
    await expect(ChangeReader.start(made, before)).rejects.toThrow(LogGap)
    expect(await told(made, await now(c))).toEqual([])
  })

  it('is told beside what was given up for lost, which who has all of need not hear of', async () => {
    const [b, c] = await differing()
    const before = await now(c)
    for (const copy of [b, c])
      await copy.change(async staging => staging.joinVector(new Map([['gone.d', 1]]), [['gone.d', 1]]))
    const lacking = await now(c)
    expect(lacking.lost).not.toBe('')
    await repair(c, b)
    expect(await told(c, lacking)).toContain('put r')
    expect(await told(c, before)).toContain('put r')
    // The entry turns up.
    const ops = planEntity({ id: 'found' }, { wall: systemTime.now(), counter: 0, origin: 'gone.d' })
    const entry = { tenant: c.id, incarnation: c.identity.incarnation, origin: 'gone.d', sequence: 1, ops }
    expect(await c.apply(entry)).toBe('applied')
    expect(await told(c, before)).toContain('put found')
    await expect(ChangeReader.start(c, lacking)).rejects.toThrow(LogGap)
  })
})
