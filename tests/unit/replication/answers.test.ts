import { describe, expect, it } from 'vitest'
import type { SessionContext } from '../../../src/session/context.ts'
import { read } from '../../../src/session/read.ts'
import { Session } from '../../../src/session/session.ts'
import { SmallCluster } from '../../support/small-cluster.ts'

const session = (small: SmallCluster) =>
  new Session(
    {
      tenant: small.tenant,
      access: 'read',
      consistency: { durability: undefined, bookmark: undefined, needsHome: false },
      asOf: undefined,
      forwardedBy: undefined,
    },
    { signal: new AbortController().signal, hasEnded: false },
  )

describe('a read that has passed the gate', () => {
  it.each(['dropping', undefined] as const)(
    'does not answer "nothing" from a copy that went meanwhile (%s in the directory)',
    async listed => {
      const small = await SmallCluster.start()
      await small.hold('n3', 'joining')
      await small.until('n3 is current', () => small.isCurrent('n3'))
      const { pool, replica, time } = small.process('n3')
      const passed = await replica.router.route({
        tenant: small.tenant,
        needsHome: false,
        forwardedBy: undefined,
      })
      expect(passed.kind).toBe('local')
      await small.hold('n3', 'dropping')
      await small.until('the copy is gone', () => small.state('n3') === 'absent')
      if (listed) await small.hold('n3', listed)
      const context: SessionContext = {
        time,
        pool,
        replica,
        durability: 'local',
        durabilityTimeoutMs: 0,
        admitTenant: () => {},
        onTenant: () => {},
      }
      const answer = read(
        context,
        session(small),
        async open => open.record({ kind: 'entity', key: ['first'] }),
        () => undefined,
      )
      await expect(answer).rejects.toMatchObject({ code: 'TENANT_UNAVAILABLE' })
    },
  )
})
