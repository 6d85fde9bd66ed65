import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { collect, type Kv, type KvOperation } from '../../src/storage/kv.ts'

const key = (text: string) => Buffer.from(text, 'latin1')
const put = (name: string, value = name): KvOperation => ({ type: 'put', key: key(name), value: Buffer.from(value) })
const all = { gte: Buffer.alloc(0), lt: Buffer.alloc(9, 0xff) }
const names = async (kv: Kv, range: Parameters<Kv['chunks']>[0] = all) =>
  (await collect(kv, range)).map(([k]) => k.toString('latin1'))

/** What every adapter of the storage port promises. */
export function kvContract(name: string, open: () => Promise<Kv>): void {
  describe(`storage port: ${name}`, () => {
    let kv: Kv
    beforeEach(async () => {
      kv = await open()
    })
    afterEach(() => kv.close())

    it('gives back what was put, and undefined for what was not', async () => {
      await kv.write([put('a', '1')], { sync: true })
      expect((await kv.get(key('a')))?.toString()).toBe('1')
      expect(await kv.get(key('b'))).toBeUndefined()
      expect((await kv.getMany([key('b'), key('a')])).map(value => value?.toString())).toEqual([undefined, '1'])
      expect(await kv.getMany([])).toEqual([])
    })

    it('keeps bytes as they are: NULs, 0xFF, empty values', async () => {
      const bytes = Buffer.from([0, 255, 0, 1])
      await kv.write(
        [
          { type: 'put', key: bytes, value: bytes },
          { type: 'put', key: key('e'), value: Buffer.alloc(0) },
        ],
        { sync: true },
      )
      expect(await kv.get(bytes)).toEqual(bytes)
      expect(await kv.get(key('e'))).toEqual(Buffer.alloc(0))
    })

    it('applies the operations of a batch in order', async () => {
      await kv.write([put('a', '1'), put('a', '2'), put('b'), { type: 'del', key: key('b') }], { sync: false })
      expect((await kv.get(key('a')))?.toString()).toBe('2')
      expect(await kv.get(key('b'))).toBeUndefined()
    })

    it('writes many operations as one, and nothing of them when what is asked before says no', async () => {
      const many = Array.from({ length: 5000 }, (_, n) => put(String(n).padStart(5, '0')))
      const before = () => {
        throw new Error('not any more')
      }
      for (const operations of [many, many.slice(0, 2)])
        await expect(kv.write(operations, { sync: true, before })).rejects.toThrow('not any more')
      expect(await names(kv)).toEqual([])
      let asked = 0
      await kv.write([...many, { type: 'del', key: key('00001') }], { sync: true, before: () => asked++ })
      expect(asked).toBe(1)
      const stored = await names(kv)
      expect(stored.length).toBe(4999)
      expect(stored.slice(0, 2)).toEqual(['00000', '00002'])
    })

    it('iterates in the order of unsigned bytes, half open, reversed, limited', async () => {
      await kv.write(
        ['b', '\x7f', '\x80', '\xff', 'a', 'ab'].map(name => put(name)),
        { sync: true },
      )
      expect(await names(kv)).toEqual(['a', 'ab', 'b', '\x7f', '\x80', '\xff'])
      expect(await names(kv, { gte: key('ab'), lt: key('\x80') })).toEqual(['ab', 'b', '\x7f'])
      expect(await names(kv, { ...all, reverse: true, limit: 2 })).toEqual(['\xff', '\x80'])
      expect((await collect(kv, { ...all, values: false, limit: 1 }))[0]![1]).toEqual(Buffer.alloc(0))
    })

    it('reads a range from one snapshot', async () => {
      await kv.write(
        Array.from({ length: 2000 }, (_, n) => put(String(n).padStart(5, '0'))),
        { sync: true },
      )
      const seen: string[] = []
      for await (const chunk of kv.chunks(all)) {
        if (seen.length === 0) await kv.write([put('00500x'), { type: 'del', key: key('01999') }], { sync: true })
        seen.push(...chunk.map(([k]) => k.toString()))
      }
      expect(seen.length).toBe(2000)
      expect(seen).toContain('01999')
      expect(seen).not.toContain('00500x')
    })

    it('can be left in the middle of a range, and closed after', async () => {
      await kv.write(
        Array.from({ length: 2000 }, (_, n) => put(String(n).padStart(5, '0'))),
        { sync: true },
      )
      for await (const chunk of kv.chunks(all)) {
        expect(chunk.length).toBeGreaterThan(0)
        break
      }
      await kv.close()
    })

    it('refuses calls after close instead of crashing', async () => {
      await kv.close()
      await expect(kv.get(key('a'))).rejects.toThrow(/closed/)
      await expect(kv.write([put('a')], { sync: true })).rejects.toThrow(/closed/)
      await expect(names(kv)).rejects.toThrow(/closed/)
      await kv.close()
    })
  })
}
