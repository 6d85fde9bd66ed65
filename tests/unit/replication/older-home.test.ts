import { expect, it } from 'vitest'
import { PeerAuth } from '../../../src/replication/auth.ts'
import { PROTOCOL } from '../../../src/replication/placement.ts'
import { Gate } from '../../../src/session/gate.ts'
import { SmallCluster } from '../../support/small-cluster.ts'

it('a condition that the home does not look at, being of the version before, is not sent there', async () => {
  const small = await SmallCluster.start()
  const { replica } = small.process('n2')
  const gate = new Gate({ replica, auth: new PeerAuth(undefined, 'n2'), bookmarkWaitMs: 100 })
  const ask = (protocol?: number) =>
    small.settle(
      gate.answer(
        {
          tenant: small.tenant,
          access: 'write',
          consistency: {
            durability: undefined,
            bookmark: undefined,
            needsHome: true,
            ...(protocol === undefined ? {} : { protocol }),
          },
          asOf: undefined,
          forwardedBy: undefined,
        },
        async () => [gate.node],
        async targets => targets.map(({ node }) => node),
      ),
    )
  expect(replica.directory.member('n1')?.protocol).toBe(PROTOCOL)
  expect((await ask(PROTOCOL))[0]).toBe('n1')
  const member = replica.directory.member.bind(replica.directory)
  // As the record of a node of the version before is read.
  replica.directory.member = node => {
    const { protocol: _none, ...older } = member(node)!
    return older
  }
  await expect(ask(PROTOCOL)).rejects.toMatchObject({ code: 'HOME_UNAVAILABLE', retryAfterS: 5 })
  expect((await ask())[0]).toBe('n1')
})
