import { describe, expect, it } from 'vitest'
import { planEntity } from '../../../src/rem/plan.ts'
import { PeerAuth } from '../../../src/replication/auth.ts'
import { NotTaken } from '../../../src/session/forward.ts'
import { Gate } from '../../../src/session/gate.ts'
import { ANY } from '../../../src/session/request.ts'
import { type SimRequest, versionOf } from '../../sim/cluster.ts'
import { SmallCluster } from '../../support/small-cluster.ts'

const ref = { kind: 'entity', key: ['first'] } as const
/** Longer than the other node needs to become the home. */
const SLOW_MS = 900

const handOver = (small: SmallCluster, from: string, to: string) =>
  small.settle(small.process(from).replica.homes.handOver(small.tenant, to))

/** The request is under way at the home when that hands the tenant over. */
async function overtaken(small: SmallCluster, entry: string, request: Partial<SimRequest>) {
  const answer = small.settle(small.process(entry).handle({ tenant: small.tenant, ref, ...request }, undefined))
  answer.catch(() => {})
  await small.until('the home has it', () => small.process('n1').handling > 0)
  await small.world.run(50)
  expect(await handOver(small, 'n1', 'n2')).toBe(true)
  return answer
}

describe('a handover of the home', () => {
  it.each(['n1', 'n2', 'n3'])(
    'that overtakes a read of the home, entered at %s, has it asked at the new one',
    async entry => {
      const small = await SmallCluster.start()
      const answer = await overtaken(small, entry, { ofHome: true, readMs: SLOW_MS })
      expect([answer.node, answer.record !== undefined]).toEqual(['n2', true])
    },
  )

  it.each(['n1', 'n2', 'n3'])(
    'that overtakes a condition before it is decided, entered at %s, has the new home decide it, once',
    async entry => {
      const small = await SmallCluster.start()
      const before = await small.process('n1').handle({ tenant: small.tenant, ref, ofHome: true }, undefined)
      expect(before.record).toBeDefined()
      let planned = 0
      const answer = await overtaken(small, entry, {
        ifVersion: versionOf(before.record),
        write: (_record, clock) => {
          planned++
          return planEntity({ id: 'first', properties: { decided: true } }, clock)
        },
        provider: { ms: SLOW_MS, isPlanning: true },
      })
      expect([answer.node, planned]).toEqual(['n2', 2])
      const after = await small.process('n2').handle({ tenant: small.tenant, ref, ofHome: true }, undefined)
      expect(after.record?.put).toEqual(answer.clock)
    },
  )

  it('is followed only so often: a request that nobody takes is refused', async () => {
    const small = await SmallCluster.start()
    const { replica } = small.process('n1')
    const gate = new Gate({ replica, auth: new PeerAuth(undefined, 'n1'), bookmarkWaitMs: 0 })
    const refused = async (forwardedBy: string | undefined) => {
      let asked = 0
      const answer = gate.answer(
        {
          tenant: small.tenant,
          access: 'read',
          consistency: { ...ANY, needsHome: true },
          asOf: undefined,
          forwardedBy,
        },
        async () => {
          asked++
          throw new NotTaken('the home is elsewhere again')
        },
        async () => {},
      )
      const error = await small.settle(answer.catch(error => error))
      return [error.code, asked]
    }
    expect(await refused(undefined)).toEqual(['HOME_UNAVAILABLE', 3])
    // Who sent it here asks the next.
    expect(await refused('n3')).toEqual(['MISDIRECTED', 3])
  })
})
