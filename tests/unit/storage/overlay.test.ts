import { describe, expect, it } from 'vitest'
import { Overlay } from '../../../src/storage/overlay.ts'

/** A store of values of one size; `asked` are the keys that it was asked for, `goes` how often. */
function storeOf(bytes: number) {
  const store = {
    asked: [] as string[],
    goes: 0,
    get: async (key: Buffer) => (await store.getMany([key]))[0],
    getMany: async (keys: readonly Buffer[]) => {
      store.goes++
      store.asked.push(...keys.map(String))
      return keys.map(() => Buffer.alloc(bytes))
    },
  }
  return store
}

const keysOf = (count: number) => Array.from({ length: count }, (_, n) => Buffer.from(`key-${n}`))

describe('what is read ahead for a group of commands', () => {
  it('is read once, however often it is named, and not again', async () => {
    const store = storeOf(120_000)
    const overlay = new Overlay(store)
    await overlay.prefetch(Array.from({ length: 1000 }, () => Buffer.from('same')))
    expect(store.asked).toEqual(['same'])
    expect((await overlay.get(Buffer.from('same')))?.length).toBe(120_000)
    expect(await overlay.getMany([Buffer.from('same')])).toHaveLength(1)
    expect(store.asked).toEqual(['same'])
  })

  it('is some megabytes at most, which count as memory; the others are read when they are asked for', async () => {
    const store = storeOf(100_000)
    const overlay = new Overlay(store)
    const keys = keysOf(1000)
    await overlay.prefetch(keys)
    expect(store.asked.length).toBeLessThan(100)
    expect(overlay.bytes).toBeGreaterThan(store.asked.length * 100_000)
    const values = await overlay.getMany(keys)
    expect(values.every(value => value?.length === 100_000)).toBe(true)
    expect(store.asked.length).toBe(1000)
  })

  it('takes few trips where records are small', async () => {
    const store = storeOf(100)
    await new Overlay(store).prefetch(keysOf(1000))
    expect(store.asked.length).toBe(1000)
    expect(store.goes).toBeLessThan(20)
  })
})
