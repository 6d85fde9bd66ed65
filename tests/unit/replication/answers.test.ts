import { describe, expect, it } from 'vitest'
import type { Clock } from '../../../src/clock/hlc.ts'
import { planEntity } from '../../../src/rem/plan.ts'
import type { SessionContext } from '../../../src/session/context.ts'
import { read } from '../../../src/session/read.ts'
import { Session } from '../../../src/session/session.ts'
import { write } from '../../../src/session/write.ts'
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

describe('a write whose copy is ordered to go before its answer is read', () => {
  it('is answered with what it made', async () => {
    const small = await SmallCluster.start()
    const { pool, replica, time } = small.process('n2')
    const context: SessionContext = {
      time,
      pool,
      replica,
      durability: 'local',
      durabilityTimeoutMs: 0,
      admitTenant: () => {},
      onTenant: () => {},
    }
    const writing = new Session(
      {
        tenant: small.tenant,
        access: 'write',
        consistency: { durability: undefined, bookmark: undefined, needsHome: false },
        asOf: undefined,
        forwardedBy: undefined,
      },
      { signal: new AbortController().signal, hasEnded: false },
    )
    const planner = async ({ clock }: { clock: Clock }) => ({ ops: planEntity({ id: 'e' }, clock), result: undefined })
    await small.settle(write(context, writing, planner))
    // What keeps it from going before the answer: nothing does, it is only seen here while it goes.
    const stays = small.process('n1').replica.service
    stays.status = async () => undefined
    await small.hold('n2', 'dropping')
    await small.until('the copy is ordered to go', () => small.state('n2') === 'dropping')
    const readBack = (session: Session) =>
      read(
        context,
        session,
        async open => open.record({ kind: 'entity', key: ['e'] }),
        () => undefined,
      )
    expect(await small.settle(readBack(writing))).toMatchObject({ del: undefined })
    await expect(small.settle(readBack(session(small)))).rejects.toMatchObject({ code: 'TENANT_UNAVAILABLE' })
    await expect(small.settle(write(context, writing, planner))).rejects.toMatchObject({
      code: 'TENANT_UNAVAILABLE',
      message: expect.stringContaining('The write was made'),
    })
  })
})

describe('a node without a copy that hears nothing of the holders', () => {
  it.each([
    ['sends the request to those that say that they have it', true],
    ['refuses it when none can be reached', false],
  ])('%s', async (_, canReach) => {
    const small = await SmallCluster.start()
    const { replica } = small.process('n3')
    const { world, cluster } = small
    // Its watch stays open and tells of nothing, until it is found deaf.
    cluster.nats.deaf.set('n3', { sinceMs: world.nowMs, untilMs: world.nowMs + 20_000 })
    await small.until('n3 takes the holders for dead', () => !['n1', 'n2'].some(node => replica.directory.isLive(node)))
    if (!canReach) for (const node of ['n1', 'n2']) cluster.node(node)!.process!.kill()
    const routed = small.settle(
      replica.router.route({ tenant: small.tenant, needsHome: false, forwardedBy: undefined }),
    )
    if (canReach) {
      // Requests that come together share the question.
      const { service } = small.process('n1').replica
      const status = service.status.bind(service)
      let asked = 0
      service.status = tenant => {
        asked++
        return status(tenant)
      }
      const request = { tenant: small.tenant, needsHome: false, forwardedBy: undefined }
      await small.settle(Promise.all(Array.from({ length: 50 }, () => replica.router.route(request))))
      expect(asked).toBeLessThanOrEqual(1)
      service.status = status
    }
    if (canReach) await expect(routed).resolves.toMatchObject({ targets: [{ node: 'n1' }, { node: 'n2' }] })
    else await expect(routed).rejects.toMatchObject({ code: 'TENANT_UNAVAILABLE' })
  })
})
