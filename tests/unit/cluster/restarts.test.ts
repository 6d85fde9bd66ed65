import { expect, it } from 'vitest'
import { RESTART_MS, RESTART_MS_MAX, Restarts, restartLine, WELL_AFTER_MS } from '../../../src/cluster/restarts.ts'
import { World } from '../../sim/world.ts'

const start = () => {
  const world = new World(1)
  const restarts = new Restarts(world.timeOf({ skewMs: 0, isDead: false }))
  const fail = async (name: string, afterMs: number) => {
    await world.run(afterMs)
    const next = restarts.next(name)
    await world.run(next.waitMs)
    return next
  }
  return { restarts, fail }
}

it('a process that fails at once is started again ever more seldom, up to a bound', async () => {
  const { restarts, fail } = start()
  const waits = []
  for (let n = 0; n < 40; n++) waits.push((await fail('node-1', 100)).waitMs)
  expect(waits.slice(0, 8)).toEqual([1, 2, 4, 8, 16, 32, 60, 60].map(times => times * RESTART_MS))
  expect(Math.max(...waits)).toBe(RESTART_MS_MAX)
  // The others are not made to wait for it.
  expect(restarts.next('node-2').waitMs).toBe(RESTART_MS)
})

it('one that was well in between begins anew', async () => {
  const { fail } = start()
  for (let n = 0; n < 5; n++) await fail('node-1', 100)
  expect((await fail('node-1', WELL_AFTER_MS)).waitMs).toBe(RESTART_MS)
  expect((await fail('node-1', WELL_AFTER_MS - 1)).waitMs).toBe(2 * RESTART_MS)
})

it('says why, when, and how often by now', () => {
  const line = (failures: number, waitMs: number) =>
    restartLine('node-1', 'it ended with 1: no disk', { failures, waitMs })
  expect(line(1, 5000)).toBe('node-1: it ended with 1: no disk; it is started again in 5 s')
  expect(line(3, 20_000)).toContain(
    'in 20 s (it failed 3 times in a row, and waits longer each time; its log tells more)',
  )
  expect(line(9, RESTART_MS_MAX)).toContain('in 300 s (it failed 9 times in a row, and waits as long as it ever does')
})
