import { describe, expect, it } from 'vitest'
import { FairSemaphore } from '../../../src/base/fair-semaphore.ts'

const fair = (options = {}) =>
  new FairSemaphore({ permits: 3, perKeyMax: 2, waitersMax: 10, waitersPerKeyMax: 4, name: 'tests', ...options })
const settle = () => new Promise(resolve => setImmediate(resolve))

describe('permits shared between keys', () => {
  it('no key holds more than its share, also while permits are free', async () => {
    const places = fair()
    await places.acquire('a')
    const second = await places.acquire('a')
    let third = false
    void places.acquire('a').then(() => {
      third = true
    })
    await settle()
    expect([places.held, places.waiting, third]).toEqual([2, 1, false])
    await places.acquire('b')
    second()
    second()
    await settle()
    expect([places.held, places.waiting, third]).toEqual([3, 0, true])
  })

  it('a key is wanted by who would get its permit: not by those who have their share, but by its own', async () => {
    const places = fair({ permits: 3, perKeyMax: 2 })
    for (const key of ['a', 'a', 'b']) await places.acquire(key)
    expect(['a', 'b'].map(key => places.isWanted(key))).toEqual([false, false])
    void places.acquire('a')
    expect(['a', 'b'].map(key => places.isWanted(key))).toEqual([true, false])
    void places.acquire('c')
    expect(['a', 'b'].map(key => places.isWanted(key))).toEqual([true, true])
  })

  it('keys that wait are served in turn, whatever the length of their queues', async () => {
    const places = fair({ permits: 1, perKeyMax: 1 })
    let release = await places.acquire('a')
    const order: string[] = []
    for (const key of ['a', 'a', 'a', 'b', 'c', 'b'])
      void places.acquire(key).then(next => {
        order.push(key)
        release = next
      })
    for (let n = 0; n < 6; n++) {
      release()
      await settle()
    }
    expect(order).toEqual(['a', 'b', 'c', 'a', 'b', 'a'])
    release()
    expect([places.held, places.waiting]).toEqual([0, 0])
  })

  it('queues are bounded, as a whole and for each key; who gives up leaves no trace', async () => {
    const places = fair({ permits: 1, waitersMax: 3, waitersPerKeyMax: 2 })
    const release = await places.acquire('a')
    const gone = new AbortController()
    const leaving = places.acquire('a', gone.signal)
    void places.acquire('a')
    await expect(places.acquire('a')).rejects.toMatchObject({ code: 'TOO_BUSY' })
    void places.acquire('b')
    await expect(places.acquire('c')).rejects.toMatchObject({ code: 'TOO_BUSY' })
    gone.abort()
    await expect(leaving).rejects.toMatchObject({ code: 'CANCELLED' })
    expect(places.waiting).toBe(2)
    await expect(places.acquire('d', gone.signal)).rejects.toMatchObject({ code: 'CANCELLED' })
    release()
    await settle()
    expect([places.held, places.waiting]).toEqual([1, 1])
  })
})
