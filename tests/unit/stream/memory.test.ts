import { describe, expect, it } from 'vitest'
import type { Time } from '../../../src/base/time.ts'
import { type MemoryLink, MemoryStream } from '../../../src/stream/memory/adapter.ts'
import { MemoryLog } from '../../../src/stream/memory/log.ts'
import type { KvUpdate } from '../../../src/stream/port.ts'
import { World } from '../../sim/world.ts'

const SPEC = { name: 's', subjects: ['s.>'], retention: 'limits', maxAgeMs: 0, replicas: 1 } as const

async function begin(faults: Partial<MemoryLink>) {
  const world = new World(1)
  const time: Time = world.timeOf({ skewMs: 0, isDead: false })
  const link: MemoryLink = { request: async () => {}, answer: async () => {}, push: () => 1, ...faults }
  const stream = new MemoryStream(new MemoryLog(time), link)
  const bucket = await stream.bucket('b')
  return { world, stream, bucket }
}

const text = (update: KvUpdate | undefined) => update && `${update.key}=${update.value}`

describe('the faults of the simulated JetStream', () => {
  it('a watch goes deaf while get and put work, and hears the last value of each key afterwards', async () => {
    let deafUntilMs = 0
    const { world, bucket } = await begin({ deafMs: () => deafUntilMs - world.nowMs })
    const heard: (string | undefined)[] = []
    const stop = new AbortController()
    const watching = (async () => {
      for await (const update of bucket.watch(stop.signal)) heard.push(text(update))
    })()
    await world.run(100)
    await bucket.put('a', Buffer.from('1'))
    await world.run(100)
    expect(heard).toEqual([undefined, 'a=1'])
    deafUntilMs = world.nowMs + 9000
    for (const value of ['2', '3']) await bucket.put('a', Buffer.from(value))
    await bucket.put('b', Buffer.from('1'))
    await bucket.put('a', Buffer.from('4'))
    await world.run(8000)
    expect(heard).toEqual([undefined, 'a=1'])
    expect((await bucket.get('a'))?.value.toString()).toBe('4')
    await world.run(3000)
    expect(heard).toEqual([undefined, 'a=1', 'b=1', 'a=4'])
    stop.abort()
    await world.run(2000)
    await watching
  })

  it('a read is behind, a compare-and-set is not', async () => {
    let lagMs = 0
    const { world, bucket } = await begin({ lagMs: () => lagMs })
    const first = await bucket.put('a', Buffer.from('1'))
    await world.run(1000)
    const second = await bucket.update('a', Buffer.from('2'), first)
    await world.run(500)
    expect((await bucket.get('a'))?.value.toString()).toBe('2')
    lagMs = 700
    expect(await bucket.get('a')).toMatchObject({ revision: first })
    expect(await bucket.update('a', Buffer.from('3'), first)).toBeUndefined()
    await world.run(300)
    expect(await bucket.get('a')).toMatchObject({ revision: second })
    lagMs = 2000
    expect(await bucket.get('a')).toBeUndefined()
  })

  it('a message is stored after its publisher was told that it was not', async () => {
    let lateMs: number | undefined = 1000
    const { world, stream } = await begin({ lateMs: () => lateMs })
    await stream.ensureStream(SPEC)
    await expect(stream.publish('s.x', Buffer.from('1'), 'one')).rejects.toThrow(/did not answer in time/)
    expect((await stream.streamInfo('s'))?.lastSequence).toBe(0)
    await world.run(1500)
    expect((await stream.streamInfo('s'))?.lastSequence).toBe(1)
    lateMs = undefined
    expect(await stream.publish('s.x', Buffer.from('1'), 'one')).toEqual({ sequence: 1, duplicate: true })
  })
})
