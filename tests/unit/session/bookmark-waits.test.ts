import { expect, it } from 'vitest'
import { parseTenantId, type TenantId } from '../../../src/base/ids.ts'
import type { PeerAuth } from '../../../src/replication/auth.ts'
import type { Replica } from '../../../src/replication/replica.ts'
import { Gate } from '../../../src/session/gate.ts'
import { ANY } from '../../../src/session/request.ts'
import { Session } from '../../../src/session/session.ts'

const [acme, globex] = [parseTenantId('acme'), parseTenantId('globex')]
const bookmark = { incarnation: 'i', vector: new Map([['gone.d', 2 ** 53 - 1]]) }

/** A gate whose pool tells how long it is to wait, and waits until the request is given up. */
function gate() {
  const waits: number[] = []
  const pool = {
    waitFor: (_: TenantId, __: unknown, { timeoutMs, signal }: { timeoutMs: number; signal?: AbortSignal }) => {
      waits.push(timeoutMs)
      return timeoutMs === 0
        ? Promise.resolve(false)
        : new Promise(resolve => signal!.addEventListener('abort', () => resolve(false)))
    },
  }
  const replica = {
    service: { node: 'n1' },
    router: { route: async () => ({ kind: 'local' }) },
    directory: { placement: () => ({ incarnation: 'i', holders: [] }), liveOrSilent: () => [] },
    copies: { state: () => 'current' },
    pool,
  } as unknown as Replica
  const made = new Gate({ replica, auth: undefined as unknown as PeerAuth, bookmarkWaitMs: 1000 })
  const read = (tenant: TenantId, signal: AbortSignal) => {
    const request = {
      tenant,
      access: 'read',
      consistency: { ...ANY, bookmark },
      asOf: undefined,
      forwardedBy: undefined,
    }
    return made.pass(new Session(request as never, { signal, hasEnded: false }))
  }
  return { waits, read }
}

it('reads whose bookmarks nobody reaches wait in bounded number, of one tenant less than of all, and only as long as their clients do', async () => {
  const { waits, read } = gate()
  const clients = new AbortController()
  const waiting = Array.from({ length: 256 }, () => read(acme, clients.signal).catch(error => error.code))
  const { signal } = new AbortController()
  await expect(read(acme, signal)).rejects.toMatchObject({ code: 'BOOKMARK_NOT_REACHED' })
  expect(waits.filter(ms => ms > 0)).toHaveLength(256)
  expect(waits.filter(ms => ms === 0)).toHaveLength(1)
  void read(globex, clients.signal).catch(() => {})
  await expect.poll(() => waits.filter(ms => ms > 0)).toHaveLength(257)
  clients.abort()
  expect(new Set(await Promise.all(waiting))).toEqual(new Set(['BOOKMARK_NOT_REACHED']))
  const again = new AbortController()
  void read(acme, again.signal).catch(() => {})
  await expect.poll(() => waits.filter(ms => ms > 0)).toHaveLength(258)
  again.abort()
})
