import { expect, it } from 'vitest'
import { wholeOf } from '../../../src/api/grpc/peer-messages.ts'
import { parseTenantId } from '../../../src/base/ids.ts'
import type { PeerHandlers, WholeFrom } from '../../../src/replication/peer.ts'
import { peerPair } from '../../support/peer-pair.ts'

it('a peer is told from which entry on nothing of an origin may be lacking; one that says no more than the origin means all of them', async () => {
  const asked: WholeFrom[] = []
  const { n1, stop } = await peerPair({
    awaitVector: async (...[, , , , whole]: Parameters<PeerHandlers['awaitVector']>) => {
      asked.push(whole ?? new Map())
      return true
    },
  })
  try {
    const vector = new Map([['a.1', 9]])
    const whole = new Map([
      ['a.1', 7],
      ['b.1', 0],
    ])
    await n1.awaitVector(parseTenantId('acme'), 'one', vector, 100, whole)
    await n1.awaitVector(parseTenantId('acme'), 'one', vector, 100)
    expect(asked).toEqual([whole, new Map()])
  } finally {
    stop()
  }
  expect(wholeOf({ whole: ['a.1'] })).toEqual(new Map([['a.1', 0]]))
})
