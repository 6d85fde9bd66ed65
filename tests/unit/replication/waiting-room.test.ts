import { expect, it } from 'vitest'
import { parseTenantId } from '../../../src/base/ids.ts'
import { WaitingRoom } from '../../../src/replication/waiting-room.ts'
import type { Entry } from '../../../src/storage/codec.ts'

it('entries that wait in memory are bounded for a tenant and for the node, and what leaves makes room', () => {
  const [acme, other] = [parseTenantId('acme'), parseTenantId('other')]
  const room = new WaitingRoom({ entriesMax: 3, bytesMax: 100, nodeBytesMax: 120 })
  const add = (tenant: typeof acme, sequence: number, bytes: number) => {
    const entry: Entry = { tenant, incarnation: 'i', origin: 'n1.d1', sequence, ops: [] }
    return room.add(tenant, entry, bytes)
  }
  expect([add(acme, 2, 40), add(acme, 3, 40)]).toEqual([true, true])
  expect(add(acme, 4, 40), 'bytes of a tenant').toBe(false)
  expect(add(acme, 3, 40), 'it is there already').toBe(true)
  expect(add(acme, 4, 10)).toBe(true)
  expect(add(acme, 5, 1), 'entries of a tenant').toBe(false)
  expect(add(other, 2, 40), 'bytes of the node').toBe(false)
  expect(room.total).toEqual({ entries: 3, bytes: 90 })
  room.remove(acme, 'n1.d1', 2)
  expect(add(other, 2, 40)).toBe(true)
  room.forget(acme)
  expect(room.total).toEqual({ entries: 1, bytes: 40 })
  room.forget(other)
  expect(room.total).toEqual({ entries: 0, bytes: 0 })
})
