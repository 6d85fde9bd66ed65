import pino from 'pino'
import { describe, expect, it } from 'vitest'
import { Directory } from '../../../src/replication/directory.ts'
import { Leadership } from '../../../src/replication/leadership.ts'
import { MemoryStream } from '../../../src/stream/memory/adapter.ts'
import { MemoryLog } from '../../../src/stream/memory/log.ts'
import { World } from '../../sim/world.ts'

const LEASE_MS = 2000
const logger = pino({ level: 'silent' })

function controllers() {
  const world = new World(5)
  const time = world.timeOf({ skewMs: 0, isDead: false })
  const log = new MemoryLog(time)
  const link = { request: () => time.sleep(1), answer: () => time.sleep(1), push: () => 1 }
  const make = (name: string) => {
    const stream = new MemoryStream(log, link)
    const directory = new Directory({
      stream,
      time,
      logger,
      replicas: 1,
      bytesMax: 0,
      leaseMs: LEASE_MS,
      heartbeatMs: 500,
      store: {
        load: async () => ({ placements: [], members: [] }),
        savePlacement: async () => {},
        saveMember: async () => {},
      },
      syncStreams: 'per-tenant',
      isObserver: true,
    })
    return new Leadership({ name, time, logger, directory, leaseMs: LEASE_MS })
  }
  return { world, first: make('c1'), second: make('c2') }
}

describe('who leads the controllers', () => {
  it('is another at once when the one that led has stopped, under a later token', async () => {
    const { world, first, second } = controllers()
    await world.settle(first.lead(), 1000)
    await world.settle(second.lead(), 1000)
    expect([first.isLeading, second.isLeading]).toEqual([true, false])
    await world.settle(first.release(), 1000)
    expect(first.isLeading).toBe(false)
    expect(() => first.assertLeading()).toThrow('does not lead')
    await world.settle(second.lead(), 1000)
    expect(second.isLeading).toBe(true)
    expect(second.token).toBeGreaterThan(first.token)
  })

  it('is another a lease after it fell silent, and never two at once', async () => {
    const { world, first, second } = controllers()
    await world.settle(first.lead(), 1000)
    const fromMs = world.nowMs
    while (!second.isLeading && world.nowMs < fromMs + 10_000) {
      await world.settle(second.lead(), 1000)
      expect(first.isLeading && second.isLeading).toBe(false)
      await world.run(50)
    }
    expect(second.isLeading).toBe(true)
    expect(world.nowMs - fromMs).toBeLessThan(LEASE_MS + 200)
    // It was only paused, and renews: it finds that another leads.
    await world.settle(first.lead(), 1000)
    expect([first.isLeading, second.isLeading]).toEqual([false, true])
  })

  it('goes above a later token that stands in the directory', async () => {
    const { world, first } = controllers()
    await world.settle(first.lead(), 1000)
    first.outbid(40)
    await world.settle(first.lead(), 1000)
    expect(first.token).toBe(41)
  })
})
