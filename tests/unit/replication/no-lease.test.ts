import { expect, it } from 'vitest'
import { PercolateError } from '../../../src/base/errors.ts'
import { planEntity } from '../../../src/rem/plan.ts'
import { REQUEST_MS } from '../../sim/link.ts'
import { SmallCluster } from '../../support/small-cluster.ts'

const ref = { kind: 'entity', key: ['counter'] } as const

/** A conditional write, as a client sends it. */
const decide = (small: SmallCluster, node: string) =>
  small.process(node).handle(
    {
      tenant: small.tenant,
      ref,
      ifVersion: 'none',
      durability: 'local',
      write: (_: unknown, clock: Parameters<typeof planEntity>[1]) => planEntity({ id: 'counter' }, clock),
    },
    undefined,
  )

it.each([
  ['n1', undefined, 1],
  ['n2', undefined, 2],
  ['n2', 'n1', 1],
  ['n1', 'n2', 1],
] as const)(
  'what only the home can do is refused soon while no server of NATS answers (at %s, sent on by %s)',
  async (node, forwardedBy, requests) => {
    const small = await SmallCluster.start()
    small.cluster.natsDown = true
    await small.world.run(20_000)
    const { world, tenant } = small
    const sinceMs = world.nowMs
    let answer: { readonly code: string; readonly afterMs: number } | undefined
    const decided =
      forwardedBy === undefined
        ? decide(small, node)
        : small.process(node).replica.router.route({ tenant, needsHome: true, forwardedBy })
    decided
      .then(
        () => 'an answer',
        (error: unknown) => (error instanceof PercolateError ? error.code : String(error)),
      )
      .then(code => (answer = { code, afterMs: world.nowMs - sinceMs }))
    await small.until('the request is answered', () => answer !== undefined)
    expect(answer!.code).toMatch(/^(HOME_UNAVAILABLE|MISDIRECTED)$/)
    expect(answer!.afterMs).toBeLessThan(requests * REQUEST_MS)
  },
)
