import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { PercolateError } from '../../../src/base/errors.ts'
import { parseTenantId } from '../../../src/base/ids.ts'
import { LARGE_BATCH_TEXT_BYTES } from '../../../src/base/limits.ts'
import { Slicer } from '../../../src/base/slice.ts'
import { systemTime, type Time } from '../../../src/base/time.ts'
import { planResource } from '../../../src/rem/plan.ts'
import { space } from '../../../src/storage/keys.ts'
import type { KvOperations, KvWrite } from '../../../src/storage/kv.ts'
import { MemoryKv } from '../../../src/storage/memory.ts'
import { checkTenant } from '../../../src/tenant/check.ts'
import { StagingRoom } from '../../../src/tenant/staging-room.ts'
import { Tenant } from '../../../src/tenant/tenant.ts'

const LARGE = LARGE_BATCH_TEXT_BYTES + 1

/** A client that goes when the test says so. */
class Client {
  hasEnded = false
  throwIfEnded(): void {
    if (this.hasEnded) throw new PercolateError('CANCELLED', 'The client went away.')
  }
}

/** Holds a batch at the store, and tells when its postings are about to be read, which is while it is staged. */
class HeldKv extends MemoryKv {
  batches = 0
  onPostings: () => void = () => {}
  onWrite: () => Promise<void> | void = () => {}

  override getMany(keys: readonly Buffer[]) {
    if (keys[0]?.[0] === space.posting) this.onPostings()
    return super.getMany(keys)
  }

  override async write(operations: KvOperations, options: KvWrite): Promise<void> {
    this.batches++
    await this.onWrite()
    await super.write(operations, options)
  }
}

/** Time whose monotonic clock the test moves; sleeps are short, whatever they ask for. */
function movedTime() {
  let nowMs = 0
  const time: Time = {
    ...systemTime,
    monotonic: () => nowMs,
    sleep: () => systemTime.sleep(1),
  }
  return { time, pass: (ms: number) => (nowMs += ms) }
}

async function open(room?: StagingRoom, options: { writeWaitMsMax?: number; time?: Time; id?: string } = {}) {
  const kv = new HeldKv()
  const tenant = await Tenant.open(parseTenantId(options.id ?? 't'), kv, {
    time: options.time ?? systemTime,
    origin: 'n.d',
    outboxEnabled: true,
    outboxBytesMax: 1e9,
    recordCacheBytes: 1e6,
    room,
    writeWaitMsMax: options.writeWaitMsMax,
    onCommit: () => {},
  })
  kv.batches = 0
  return { kv, tenant }
}

/** A command of one resource; `isPlanned` says how often it was begun. */
function put(tenant: Tenant, content: string, textBytes: number, ending?: Client) {
  const command = { planned: 0, done: Promise.resolve() as Promise<unknown> }
  command.done = tenant.write(
    ({ clock }) => {
      command.planned++
      const resource = { uri: content, ordinal: 0, content, name: null, category: null, metadata: {} }
      return { ops: [planResource(resource, clock)], result: content }
    },
    { textBytes, ending },
  )
  command.done.catch(() => {})
  return command
}

const cancelled = { code: 'CANCELLED' }
const settle = () => systemTime.sleep(5)

function gate() {
  let release = () => {}
  const held = new Promise<void>(resolve => {
    release = resolve
  })
  return { held, release }
}

describe('a write whose client has gone', () => {
  const { sliceMs } = Slicer
  beforeEach(() => {
    Slicer.sliceMs = 0
  })
  afterEach(() => {
    Slicer.sliceMs = sliceMs
  })

  it('is given up when its turn comes, and those beside it are made', async () => {
    const { kv, tenant } = await open()
    const { held, release } = gate()
    kv.onWrite = () => held
    const first = put(tenant, 'first', 10)
    await settle()
    const client = new Client()
    const [gone, other] = [put(tenant, 'gone', 10, client), put(tenant, 'other', 10, new Client())]
    client.hasEnded = true
    release()
    await Promise.all([first.done, other.done])
    await expect(gone.done).rejects.toMatchObject(cancelled)
    expect(gone.planned).toBe(0)
    expect(tenant.state.documents).toBe(2)
  })

  it('is given up while it waits for the large batches of others, and so are those that wait behind it', async () => {
    const room = new StagingRoom(LARGE, movedTime().time)
    const leave = await room.enter(LARGE)
    const { tenant } = await open(room)
    const clients = [new Client(), new Client(), new Client()]
    const commands = clients.map((client, n) => put(tenant, `batch ${n}`, 5 * LARGE, client))
    const { tenant: next } = await open(room)
    const wanted = put(next, 'wanted', LARGE, new Client())
    await settle()
    expect(room.waiting).toBe(2)
    for (const client of clients) client.hasEnded = true
    for (const { done } of commands) await expect(done).rejects.toMatchObject(cancelled)
    expect(commands.map(({ planned }) => planned)).toEqual([0, 0, 0])
    expect(room.waiting).toBe(1)
    leave!()
    await wanted.done
    expect(room.heldBytes).toBe(0)
  })

  it('is given up while it is staged, and nothing of it is written', async () => {
    const { kv, tenant } = await open(new StagingRoom(LARGE))
    const client = new Client()
    kv.onPostings = () => {
      client.hasEnded = true
    }
    const gone = put(tenant, 'words of somebody who has gone', LARGE, client)
    await expect(gone.done).rejects.toMatchObject(cancelled)
    expect([kv.batches, tenant.state.documents, tenant.heldBytes]).toEqual([0, 0, 0])
    await put(tenant, 'other words', LARGE, new Client()).done
    expect(tenant.state.documents).toBe(1)
    expect((await checkTenant(tenant)).problems).toEqual([])
  })

  it('leaves the others of its batch where they are: made anew without it when it is most of the batch, else made with it', async () => {
    for (const [goneBytes, keptBytes, isMade] of [
      [600_000, 300_000, false],
      [300_000, 600_000, true],
    ] as const) {
      const { kv, tenant } = await open(new StagingRoom(LARGE))
      const client = new Client()
      kv.onPostings = () => {
        client.hasEnded = true
      }
      const gone = put(tenant, 'gone', goneBytes, client)
      const kept = put(tenant, 'kept', keptBytes, new Client())
      await kept.done
      expect(kept.planned).toBe(isMade ? 1 : 2)
      if (isMade) await gone.done
      else await expect(gone.done).rejects.toMatchObject(cancelled)
      expect([kv.batches, tenant.state.documents]).toEqual([1, isMade ? 2 : 1])
      expect((await checkTenant(tenant)).problems).toEqual([])
    }
  })

  it('stands when it has gone to the store', async () => {
    const { kv, tenant } = await open(new StagingRoom(LARGE))
    const client = new Client()
    kv.onWrite = () => {
      client.hasEnded = true
    }
    expect(await put(tenant, 'words', LARGE, client).done).toBe('words')
    expect(tenant.state.documents).toBe(1)
  })
})

describe('a write that waits behind large batches', () => {
  it('is refused when it has waited for the bound, and one of the node itself is not', async () => {
    const { time, pass } = movedTime()
    const room = new StagingRoom(LARGE, time)
    const leave = await room.enter(LARGE)
    const { tenant } = await open(room, { time, writeWaitMsMax: 1000 })
    const commands = [1, 2].map(n => put(tenant, `batch ${n}`, 5 * LARGE, new Client()))
    const own = put(tenant, 'own', 10)
    await settle()
    pass(999)
    const late = put(tenant, 'late', 10, new Client())
    await settle()
    expect([room.waiting, room.tooLate]).toEqual([1, 0])
    pass(1)
    for (const { done } of commands) await expect(done).rejects.toMatchObject({ code: 'TOO_BUSY', retryAfterS: 5 })
    await Promise.all([own.done, late.done])
    expect(commands.map(({ planned }) => planned)).toEqual([0, 0])
    expect([tenant.state.documents, room.tooLate]).toEqual([2, 2])
    leave!()
  })

  it('does not wait for a turn that one behind it has', async () => {
    const room = new StagingRoom(LARGE)
    const turn = await room.takeTurn(LARGE, () => undefined)
    const { tenant } = await open(room)
    const first = put(tenant, 'first', 5 * LARGE, new Client())
    await settle()
    expect(room.waiting).toBe(1)
    const second = tenant.write(() => ({ ops: [], result: 'second' }), { textBytes: LARGE, turn })
    expect([await first.done, await second]).toEqual(['first', 'second'])
    turn!.leave()
    await settle()
    expect([room.heldBytes, room.waiting]).toEqual([0, 0])
    const alone = await room.takeTurn(LARGE, () => undefined)
    expect(await tenant.write(() => ({ ops: [], result: 'alone' }), { textBytes: LARGE, turn: alone })).toBe('alone')
    const refused = room.takeTurn(LARGE, () => new PercolateError('CANCELLED', 'gone'))
    await expect(refused).rejects.toMatchObject(cancelled)
    alone!.leave()
    expect([room.heldBytes, room.waiting]).toEqual([0, 0])
  })

  it('comes after one batch of another tenant, however many that has', async () => {
    const room = new StagingRoom(LARGE)
    const [{ tenant: many }, { tenant: one }] = [await open(room, { id: 'many' }), await open(room, { id: 'one' })]
    const order: string[] = []
    const note = (name: string) => () => order.push(name)
    const batches = Array.from({ length: 5 }, (_, n) => put(many, `batch ${n}`, 5 * LARGE, new Client()).done)
    const all = batches.map((done, n) => done.then(note(`many ${n}`)))
    all.push(put(one, 'batch', 5 * LARGE, new Client()).done.then(note('one')))
    await Promise.all(all)
    expect(order.indexOf('one')).toBe(1)
  })
})

describe('a node that is stopping, when its time for requests is over', () => {
  it('refuses what waits, gives up what is staged, and makes what is small and its own', async () => {
    const { sliceMs } = Slicer
    Slicer.sliceMs = 0
    try {
      const room = new StagingRoom(LARGE)
      const [staging, waiting] = [await open(room, { id: 'staging' }), await open(room, { id: 'waiting' })]
      staging.kv.onPostings = () => room.close()
      const commands = [
        put(staging.tenant, 'staged', LARGE, new Client()),
        put(staging.tenant, 'queued', 10, new Client()),
        put(waiting.tenant, 'waits', 5 * LARGE, new Client()),
        put(waiting.tenant, 'waits too', 5 * LARGE),
      ]
      const own = put(staging.tenant, 'own', 10)
      for (const { done } of commands) await expect(done).rejects.toMatchObject({ code: 'SHUTTING_DOWN' })
      await own.done
      await settle()
      expect([staging.tenant.state.documents, waiting.kv.batches, room.heldBytes]).toEqual([1, 0, 0])
    } finally {
      Slicer.sliceMs = sliceMs
    }
  })
})
