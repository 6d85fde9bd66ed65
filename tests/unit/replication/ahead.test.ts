import { describe, expect, it } from 'vitest'
import { parseTenantId } from '../../../src/base/ids.ts'
import { systemTime } from '../../../src/base/time.ts'
import type { Clock } from '../../../src/clock/hlc.ts'
import type { VersionVector } from '../../../src/clock/vector.ts'
import { planEntity } from '../../../src/rem/plan.ts'
import { exportCopy } from '../../../src/replication/export.ts'
import type { TransferPart } from '../../../src/replication/peer.ts'
import { importTransfer } from '../../../src/replication/transfer.ts'
import { decodeEntry } from '../../../src/storage/codec.ts'
import { prefixes, prefixRange, space } from '../../../src/storage/keys.ts'
import { collect } from '../../../src/storage/kv.ts'
import { MemoryKv } from '../../../src/storage/memory.ts'
import { Tenant } from '../../../src/tenant/tenant.ts'
import { SmallCluster } from '../../support/small-cluster.ts'

/** Records that are here before the vector counts the entries that they are of. */

const AS_OF: Clock = { wall: 1_000_000, counter: 7, origin: 'job' }

const openCopy = (node: string) =>
  Tenant.open(parseTenantId('acme'), new MemoryKv(), {
    time: systemTime,
    origin: `${node}.d`,
    incarnation: '000000000001-0000000000000000',
    changesMax: 1000,
    outboxEnabled: true,
    outboxBytesMax: 1e9,
    recordCacheBytes: 1e6,
    onCommit: () => {},
  })

/** Writes entities in one command; its position. */
async function put(tenant: Tenant, ids: readonly string[], options: { asOf?: Clock } = {}): Promise<VersionVector> {
  let position: VersionVector | undefined
  await tenant.write(
    ({ clock }) => ({ ops: ids.flatMap(id => planEntity({ id, properties: { id } }, clock)), result: undefined }),
    {
      ...options,
      onCommitted: reached => {
        position = reached
      },
    },
  )
  return position!
}

const deliver = async (from: Tenant, to: Tenant) => {
  for (const [, value] of await collect(from, prefixRange(prefixes.space(space.outbox))))
    await to.apply(decodeEntry(value))
}
const exists = async (tenant: Tenant, id: string) => (await tenant.record({ kind: 'entity', key: [id] })) !== undefined

/** All of one copy's records come to another, and not the end of the transfer. */
async function cutShort(from: Tenant, to: Tenant): Promise<void> {
  const parts: TransferPart[] = []
  for await (const part of exportCopy(work => work(from), 'x', undefined)) parts.push(part)
  const allButTheLast = async function* () {
    yield* parts.slice(0, -1)
  }
  await expect(importTransfer(work => work(to), allButTheLast(), { resumable: false })).rejects.toMatchObject({
    code: 'SNAPSHOT_INVALID',
  })
  expect(to.state.ahead).toBeDefined()
}

describe('a write that finds its state there already', () => {
  it('gets an entry of its own while that came ahead of the vector, and is nowhere by its position that lacks it', async () => {
    const [a, b, c] = [await openCopy('a'), await openCopy('b'), await openCopy('c')]
    await put(a, ['base'])
    for (const other of [b, c]) await deliver(a, other)
    await put(a, ['wanted'], { asOf: AS_OF })
    await cutShort(a, b)
    expect(await exists(b, 'wanted')).toBe(true)
    const position = await put(b, ['wanted'], { asOf: AS_OF })
    expect(b.covers(position)).toBe(true)
    // The third copy has all of the first one's that the vector of the second counts.
    expect(c.covers(position)).toBe(false)
    await deliver(b, c)
    expect(c.covers(position)).toBe(true)
    expect(await exists(c, 'wanted')).toBe(true)
  })

  it('goes out whole when only a part of it was there', async () => {
    const [a, b, c] = [await openCopy('a'), await openCopy('b'), await openCopy('c')]
    await put(a, ['one'], { asOf: AS_OF })
    await deliver(a, b)
    const position = await put(b, ['one', 'two'], { asOf: AS_OF })
    await deliver(b, c)
    expect(c.covers(position)).toBe(true)
    expect([await exists(c, 'one'), await exists(c, 'two')]).toEqual([true, true])
  })

  it('is found at its position where an entry was given up for lost that said the same', async () => {
    const [a, b, c] = [await openCopy('a'), await openCopy('b'), await openCopy('c')]
    await put(a, ['wanted'], { asOf: AS_OF })
    await deliver(a, b)
    for (const copy of [b, c])
      await copy.change(async staging => staging.joinVector(new Map([['gone.d', 1]]), [['gone.d', 1]]))
    await c.change(async staging => staging.joinVector(new Map([['a.d', 1]]), [['a.d', 1]]))
    const position = await put(b, ['wanted'], { asOf: AS_OF })
    expect(c.covers(position)).toBe(false)
    await deliver(b, c)
    expect(await exists(c, 'wanted')).toBe(true)
  })

  it('is in the stream when it is said to be, also when what it found had come past the stream', async () => {
    const small = await SmallCluster.start({ settings: { antiEntropyMs: 1e9 } })
    await small.hold('n3', 'joining')
    await small.until('n3 is current', () => small.isCurrent('n3'))
    small.cluster.node('n1')!.natsCut = true
    const clock = { wall: small.process('n1').time.now(), counter: 0, origin: 'job' }
    const write = (node: string, durability: 'local' | 'stream') =>
      small.settle(
        small.process(node).handle(
          {
            tenant: small.tenant,
            ref: { kind: 'entity', key: ['wanted'] },
            write: () => planEntity({ id: 'wanted', properties: { v: 1 } }, clock),
            durability,
          },
          undefined,
        ),
      )
    expect((await write('n1', 'local')).reached).toBe('local')
    await small.settle(small.process('n2').replica.reconciler.reconcile(small.tenant, 'n1'))
    expect(await small.read('n2', 'wanted')).toBeDefined()
    expect((await write('n2', 'stream')).reached).toBe('stream')
    for (const node of ['n1', 'n2']) small.process(node).kill()
    await small.world.run(5000)
    expect(await small.read('n3', 'wanted')).toBeDefined()
  })
})
