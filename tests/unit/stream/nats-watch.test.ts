import { expect, it } from 'vitest'
import type { StreamDisk } from '../../../src/stream/nats/disk.ts'
import type { JetStreamFinding } from '../../../src/stream/nats/health.ts'
import { JetStreamWatch, RestartTurns } from '../../../src/stream/nats/watch.ts'
import { World } from '../../sim/world.ts'

const WELL: JetStreamFinding = { kind: 'well' }
const UNKNOWN: JetStreamFinding = { kind: 'unknown' }
const SILENT: JetStreamFinding = { kind: 'silent', reason: 'not for its streams' }
const OFF: JetStreamFinding = { kind: 'off', reason: 'write error' }

/** Servers that are well until `found` says otherwise, and that a restart mends. */
function start(names = ['nats-1']) {
  const world = new World(1)
  const time = world.timeOf({ skewMs: 0, isDead: false })
  const turns = new RestartTurns()
  const restarted: { name: string; atMs: number }[] = []
  let running = 0
  const servers = names.map(name => {
    const server = {
      found: WELL as JetStreamFinding,
      disk: 'room' as Awaited<ReturnType<StreamDisk['state']>>,
      takesWrite: true,
      isMended: true,
      watch: undefined as unknown as JetStreamWatch,
    }
    server.watch = new JetStreamWatch({
      disk: { state: async () => server.disk, takesWrite: async () => server.takesWrite },
      health: { ask: async () => server.found, answers: async () => true },
      turns,
      time,
      restart: async () => {
        expect(++running).toBe(1)
        restarted.push({ name, atMs: time.monotonic() })
        await time.sleep(2000)
        if (server.isMended) server.found = WELL
        running--
      },
      say: () => {},
    })
    server.watch.start()
    return server
  })
  const stop = async () => {
    const stopped = Promise.all(servers.map(({ watch }) => watch.stop()))
    await world.run(10_000)
    await stopped
  }
  return { world, servers, server: servers[0]!, restarted, stop }
}

it.each([SILENT, OFF])(
  'restarts a server that is found dead again and again, though no look saw its disk full: %o',
  async found => {
    const { world, server, restarted, stop } = start()
    await world.run(60_000)
    server.found = found
    await world.run(30_000)
    expect(restarted).toHaveLength(1)
    await world.run(60_000)
    expect(restarted).toHaveLength(1)
    await stop()
  },
)

it('restarts none that is slow, paused, without quorum, or that reads its streams again: what it does not know is no finding', async () => {
  const { world, server, restarted, stop } = start()
  for (let round = 0; round < 50; round++) {
    server.found = UNKNOWN
    await world.run(10_000)
    // A single silence in between is none either.
    server.found = SILENT
    await world.run(1000)
  }
  expect(restarted).toEqual([])
  await stop()
})

it('restarts none while its disk is full, or takes no write: it is the disk then', async () => {
  const { world, server, restarted, stop } = start()
  server.found = SILENT
  server.takesWrite = false
  await world.run(120_000)
  server.takesWrite = true
  server.disk = 'full'
  await world.run(120_000)
  server.disk = 'unknown'
  await world.run(120_000)
  expect(restarted).toEqual([])
  server.disk = 'room'
  await world.run(30_000)
  expect(restarted).toHaveLength(1)
  await stop()
})

it('restarts one that it does not mend ever more seldom, up to a bound', async () => {
  const { world, server, restarted, stop } = start()
  server.found = OFF
  server.isMended = false
  await world.run(3_600_000)
  const gaps = restarted.slice(1).map(({ atMs }, n) => atMs - restarted[n]!.atMs)
  gaps.slice(0, 5).forEach((gap, n) => {
    expect(gap).toBeGreaterThanOrEqual(10_000 * 2 ** n)
  })
  expect(Math.min(...gaps.slice(5))).toBeGreaterThanOrEqual(300_000)
  expect(Math.max(...gaps)).toBeLessThan(330_000)
  await stop()
})

it('restarts one after another of several, and only what is still dead after the one before', async () => {
  const { world, servers, restarted, stop } = start(['nats-1', 'nats-2', 'nats-3'])
  await world.run(60_000)
  for (const server of servers) server.found = SILENT
  // The restart of the first mends the third as well.
  await world.run(5000)
  while (restarted.length === 0) await world.run(100)
  const first = restarted[0]!.name
  const [second, third] = servers.filter((_, n) => `nats-${n + 1}` !== first)
  third!.found = WELL
  await world.run(60_000)
  expect(restarted.map(({ name }) => name)).toEqual([first, `nats-${servers.indexOf(second!) + 1}`])
  await stop()
})
