import { expect, it } from 'vitest'
import { NotYet, WaitingRoom } from '../../../src/activator/room.ts'
import type { Backend } from '../../../src/activator/waiters.ts'
import { parseTenantId } from '../../../src/base/ids.ts'
import { systemTime } from '../../../src/base/time.ts'

const NODE: Backend = { node: 'n1', http: '', grpc: '' }
const never = new AbortController().signal
const acme = parseTenantId('acme')

/** A room, and a node that becomes ready when it is told to. */
function roomAndNode(options: Partial<ConstructorParameters<typeof WaitingRoom>[0]> = {}) {
  const state = { isReady: false, looks: 0, picks: 0 }
  const room = new WaitingRoom({
    time: systemTime,
    picker: () => {
      state.looks++
      if (!state.isReady) return undefined
      return () => {
        state.picks++
        return NODE
      }
    },
    requestsMax: 1000,
    bytesMax: 2000,
    holdMs: 5000,
    wakeMs: 100,
    ...options,
  })
  return { room, state }
}

it('one look serves all that wait, and each that is there gets the node', async () => {
  const { room, state } = roomAndNode()
  let sent = 0
  const held = Array.from({ length: 400 }, (_, n) =>
    room.through(parseTenantId(`t${n % 4}`), 1, never, async () => void sent++),
  )
  await systemTime.sleep(500)
  expect([room.held, room.tenants]).toEqual([400, 4])
  // One for each when it came, and then each 20 ms.
  expect(state.looks).toBeLessThan(400 + 40)
  state.isReady = true
  await Promise.all(held)
  expect([sent, room.held, room.heldBytes, room.counts.forwarded]).toEqual([400, 0, 0, 400])
  expect(state.picks).toBe(4)
})

it('who goes is held no longer, and neither is anybody when the time is up, or when the room closes', async () => {
  const { room } = roomAndNode({ holdMs: 300 })
  const gone = new AbortController()
  const through = (signal: AbortSignal) => room.through(acme, 1, signal, async () => {}).catch(error => error)
  const left = through(gone.signal)
  const late = through(never)
  expect(room.held).toBe(2)
  gone.abort(new Error('went away'))
  expect((await left).message).toBe('went away')
  expect(room.held).toBe(1)
  expect((await late).code).toBe('TENANT_UNAVAILABLE')
  expect([room.held, room.counts.expired]).toEqual([0, 1])
  const last = through(never)
  room.close()
  expect((await last).code).toBe('SHUTTING_DOWN')
  expect((await through(never)).code).toBe('SHUTTING_DOWN')
  expect(room.held).toBe(0)
})

it('a node that is not ready is asked again after pauses that grow, or as late as it says, and once more at the end', async () => {
  const { room, state } = roomAndNode({ holdMs: 1500 })
  state.isReady = true
  const asked = async (afterMs: number) => {
    const sinceMs = systemTime.monotonic()
    const times: [number, boolean][] = []
    await room
      .through(acme, 1, never, async (_, mayRetry) => {
        times.push([systemTime.monotonic() - sinceMs, mayRetry])
        if (mayRetry) throw new NotYet(afterMs)
      })
      .catch(() => {})
    return times
  }
  const times = await asked(0)
  // 0, 100, 300, 700, and the last when the time is up.
  expect(times.map(([, mayRetry]) => mayRetry)).toEqual([true, true, true, true, false])
  expect(times[3]![0]).toBeGreaterThanOrEqual(700)
  const later = await asked(1000)
  expect(later.map(([, mayRetry]) => mayRetry)).toEqual([true, true, false])
  expect(later[1]![0]).toBeGreaterThanOrEqual(1000)
})

it.each([
  ['places', { requestsMax: 10 }, 1],
  ['bytes', { bytesMax: 100 }, 10],
])('one tenant holds half of the %s at most, and the others have the rest', async (_, options, bytes) => {
  const { room } = roomAndNode({ holdMs: 300, ...options })
  const through = (tenant: string) =>
    room
      .through(parseTenantId(tenant), bytes, never, async () => {})
      .then(
        () => [],
        error => [error.code, error.message],
      )
  const greedy = Array.from({ length: 8 }, () => through('greedy'))
  const others = ['a', 'b', 'c', 'd', 'e', 'f'].map(through)
  expect([room.held, room.counts.refused]).toEqual([10, 4])
  expect(await greedy[5]).toEqual(['TOO_BUSY', expect.stringContaining('requests of this tenant as can be held')])
  expect(await others[5]).toEqual(['TOO_BUSY', expect.stringContaining('requests as can be held')])
  expect((await Promise.all(others.slice(0, 5))).map(([code]) => code)).toEqual(Array(5).fill('TENANT_UNAVAILABLE'))
  expect([room.held, room.heldBytes]).toEqual([0, 0])
})
