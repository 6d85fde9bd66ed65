import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { describe, expect, it } from 'vitest'
import { parseTenantId } from '../../../src/base/ids.ts'
import { systemTime } from '../../../src/base/time.ts'
import { planResource } from '../../../src/rem/plan.ts'
import { space } from '../../../src/storage/keys.ts'
import type { KvOperation, KvOperations, KvWrite } from '../../../src/storage/kv.ts'
import { MemoryKv } from '../../../src/storage/memory.ts'
import { PackedOperations } from '../../../src/storage/packed-operations.ts'
import { checkTenant } from '../../../src/tenant/check.ts'
import { StagingRoom } from '../../../src/tenant/staging-room.ts'
import { Tenant } from '../../../src/tenant/tenant.ts'

setFlagsFromString('--expose-gc')
const collectGarbage = runInNewContext('gc') as () => void
const memoryBytes = () => {
  collectGarbage()
  const { heapUsed, external } = process.memoryUsage()
  return heapUsed + external
}

/** Looks at a batch when all of it is held and its postings are about to be made, and when they are and nothing of it is written. */
class WatchedKv extends MemoryKv {
  onWrite: (operations: KvOperations) => void = () => {}
  onPostings: () => void = () => {}

  override getMany(keys: readonly Buffer[]) {
    if (keys[0]?.[0] === space.posting) this.onPostings()
    return super.getMany(keys)
  }

  override async write(operations: KvOperations, options: KvWrite): Promise<void> {
    this.onWrite(operations)
    await super.write(operations, options)
  }
}

async function open(room?: StagingRoom, stagedBytesMax?: number) {
  const kv = new WatchedKv()
  const tenant = await Tenant.open(parseTenantId('t'), kv, {
    time: systemTime,
    origin: 'n.d',
    outboxEnabled: true,
    outboxBytesMax: 1e9,
    recordCacheBytes: 1e6,
    room,
    stagedBytesMax,
    onCommit: () => {},
  })
  return { kv, tenant }
}

/** Characters of a script without spaces, so that nearly each makes a term of its own. */
const unspaced = (characters: number, seed: number): string => {
  let state = seed
  return Array.from({ length: characters }, () => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0
    return String.fromCharCode(0x4e00 + ((state >>> 8) % 20000))
  }).join('')
}

const put = (tenant: Tenant, contents: readonly string[], textBytes: number) =>
  tenant.write(
    ({ clock }) => ({
      ops: contents.map((content, ordinal) =>
        planResource({ uri: 'u', ordinal, content, name: null, category: null, metadata: {} }, clock),
      ),
      result: undefined,
    }),
    { weight: contents.length, textBytes },
  )

describe('a batch of documents that have a term a character', () => {
  it('takes some two hundred bytes a term, and is counted while it is made', async () => {
    const { kv, tenant } = await open()
    const contents = [unspaced(15_000, 1), unspaced(15_000, 2)]
    const before = memoryBytes()
    const looks: { taken: number; counted: number }[] = []
    const look = () => looks.push({ taken: memoryBytes() - before, counted: tenant.heldBytes })
    let terms = 0
    kv.onPostings = () => {
      if (looks.length === 0) look()
    }
    kv.onWrite = operations => {
      terms = operations.length
      look()
    }
    await put(tenant, contents, 90_000)
    expect(terms).toBeGreaterThan(29_000)
    expect(looks.length).toBe(2)
    for (const { taken, counted } of looks) {
      expect(taken / terms).toBeLessThan(200)
      expect(counted / taken).toBeGreaterThan(0.5)
      expect(counted / taken).toBeLessThan(2.5)
    }
    expect(tenant.heldBytes).toBe(0)
    expect((await checkTenant(tenant)).problems).toEqual([])
  })

  it('shares its fsync with no more than a bound of text', async () => {
    const { kv, tenant } = await open()
    let batches = 0
    kv.onWrite = () => batches++
    await Promise.all(Array.from({ length: 8 }, (_, n) => put(tenant, [`words of ${n}`], 300 * 1024)))
    expect(batches).toBeGreaterThanOrEqual(3)
    expect(batches).toBeLessThan(8)
  })

  it('is refused alone when it takes too much, and what shared its batch is written', async () => {
    const room = new StagingRoom(1_000_000)
    const { tenant } = await open(room, 1_000_000)
    const outcomes = await Promise.allSettled([
      put(tenant, ['few words'], 0),
      put(tenant, [unspaced(10_000, 1)], 0),
      put(tenant, ['other words'], 0),
      put(tenant, [unspaced(10_000, 2), unspaced(10_000, 3)], 0),
    ])
    expect(outcomes.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled', 'rejected'])
    expect(outcomes[1]).toMatchObject({ reason: { code: 'BODY_TOO_LARGE' } })
    expect(room.refused).toBe(2)
    expect(tenant.state.documents).toBe(2)
    await put(tenant, ['more words'], 0)
    expect((await checkTenant(tenant)).problems).toEqual([])
  })

  it('waits for those of other tenants', async () => {
    const room = new StagingRoom(1_000_000)
    const tenants = await Promise.all(Array.from({ length: 4 }, () => open(room)))
    let inside = 0
    let most = 0
    for (const { kv } of tenants)
      kv.onWrite = () => {
        inside = tenants.filter(({ tenant }) => tenant.heldBytes > 0).length
        most = Math.max(most, inside)
      }
    await Promise.all(tenants.map(({ tenant }, n) => put(tenant, [unspaced(2000, n)], 700_000)))
    expect(most).toBe(1)
    expect(room.waiting).toBe(0)
  })
})

describe('the room for large batches', () => {
  it('lets small ones and one that is larger than all of it pass, and keeps the order of the others', async () => {
    const room = new StagingRoom(1_000_000)
    const leaveFirst = await room.enter(5_000_000)
    expect(await room.enter(1000)).toBeUndefined()
    const order: string[] = []
    const enter = async (name: string) => {
      const leave = await room.enter(600_000)
      order.push(name)
      return leave
    }
    const second = enter('second')
    const third = enter('third')
    await systemTime.sleep(1)
    expect(order).toEqual([])
    leaveFirst!()
    const leaveSecond = await second
    await systemTime.sleep(1)
    expect(order).toEqual(['second'])
    leaveSecond!()
    ;(await third)!()
    expect(order).toEqual(['second', 'third'])
    expect(await room.enter(1_000_000)).toBeTypeOf('function')
  })
})

describe('packed operations', () => {
  it('are read as they were added, as often as wanted', () => {
    const packed = new PackedOperations()
    const added: KvOperation[] = []
    for (let n = 0; n < 3000; n++) {
      const key = Buffer.from(`key ${n}`)
      const value = Buffer.alloc(n % 700, n)
      if (n % 5 === 0) packed.del(key)
      else packed.put(key, value)
      added.push(n % 5 === 0 ? { type: 'del', key } : { type: 'put', key, value })
    }
    const large = Buffer.alloc(1_000_000, 7)
    packed.put(Buffer.from('large'), large)
    added.push({ type: 'put', key: Buffer.from('large'), value: large })
    const inHex = (operations: Iterable<KvOperation>) =>
      Array.from(
        operations,
        operation =>
          `${operation.key.toString('hex')} ${operation.type === 'put' ? operation.value.toString('hex') : ''}`,
      ).join('\n')
    for (let time = 0; time < 2; time++) expect(inHex(packed) === inHex(added)).toBe(true)
    expect(packed.length).toBe(added.length)
  })
})
