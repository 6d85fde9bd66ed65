import { EventEmitter } from 'node:events'
import type { Socket } from 'node:net'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { Connections } from '../../../src/base/connections.ts'

class FakeSocket extends EventEmitter {
  isClosed = false
  destroy() {
    if (this.isClosed) return
    this.isClosed = true
    // As a real one: later.
    queueMicrotask(() => this.emit('close'))
  }
}
const socket = () => new FakeSocket() as unknown as Socket & FakeSocket

describe('the connections of a server', () => {
  it('the one that nothing was asked on for the longest makes room for another', () => {
    const connections = new Connections(2)
    const [a, b, c, d] = [socket(), socket(), socket(), socket()]
    connections.take(a)
    connections.take(b)
    for (const used of [a, b, a]) connections.begin(used)()
    connections.take(c)
    expect([a.isClosed, b.isClosed, c.isClosed]).toEqual([false, true, false])
    connections.begin(c)()
    connections.take(d)
    expect([a.isClosed, c.isClosed, d.isClosed]).toEqual([true, false, false])
    expect([connections.open, connections.gaveWay, connections.refused]).toEqual([2, 2, 0])
  })

  it('clients that have just come go after those that ask for nothing any more, and before them when they had the time to', () => {
    let nowMs = 0
    const connections = new Connections(3, { monotonic: () => nowMs })
    const [old, b, c, d, e] = [socket(), socket(), socket(), socket(), socket()]
    for (const used of [old, b]) {
      connections.take(used)
      connections.begin(used)()
    }
    for (const fresh of [c, d]) connections.take(fresh)
    expect([old, b, c, d].map(({ isClosed }) => isClosed)).toEqual([true, false, false, false])
    nowMs += 5000
    connections.take(e)
    expect([b, c, d, e].map(({ isClosed }) => isClosed)).toEqual([false, true, false, false])
  })

  it('one with a request under way stays, and the new one is closed when there is no other', () => {
    const connections = new Connections(1)
    const [a, b, c] = [socket(), socket(), socket()]
    connections.take(a)
    const [first, second] = [connections.begin(a), connections.begin(a)]
    first()
    first()
    expect(connections.take(b)).toBe(false)
    expect([a.isClosed, b.isClosed, connections.refused]).toEqual([false, true, 1])
    second()
    expect(connections.take(c)).toBe(true)
    expect([a.isClosed, c.isClosed, connections.open]).toEqual([true, false, 1])
  })

  it('are never more than may be, whatever comes in which order', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 4 }),
        fc.array(fc.tuple(fc.constantFrom('take', 'begin', 'end', 'close', 'turn'), fc.nat(9)), { maxLength: 60 }),
        async (max, steps) => {
          const connections = new Connections(max)
          const sockets: (Socket & FakeSocket)[] = []
          const running = new Map<Socket, (() => void)[]>()
          for (const [step, n] of steps) {
            const one = sockets[n % Math.max(1, sockets.length)]
            if (step === 'turn') await Promise.resolve()
            else if (step === 'take') {
              const next = socket()
              if (connections.take(next)) sockets.push(next)
            } else if (one && step === 'begin') running.set(one, [...(running.get(one) ?? []), connections.begin(one)])
            else if (one && step === 'end') running.get(one)?.pop()?.()
            else if (one) one.destroy()
            expect(connections.open).toBeLessThanOrEqual(max)
          }
          await Promise.resolve()
          expect(connections.open).toBe(sockets.filter(({ isClosed }) => !isClosed).length)
        },
      ),
    )
  })

  it('are an eighth of the file descriptors at most', () => {
    expect(Connections.of({ connectionsMax: 4096 }, 1024).max).toBe(128)
    expect(Connections.of({ connectionsMax: 100 }, 1024).max).toBe(100)
  })
})
