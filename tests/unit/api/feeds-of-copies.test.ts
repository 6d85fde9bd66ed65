import { describe, expect, it } from 'vitest'
import type { ChangeEvent } from '../../../src/api/operations/changes.ts'
import { PercolateError } from '../../../src/base/errors.ts'
import { ANY } from '../../../src/session/request.ts'
import { Session } from '../../../src/session/session.ts'
import { SmallCluster } from '../../support/small-cluster.ts'

const HEARTBEAT_MS = 1000

/** A feed as its client has it: what it was told of, and how it ended. */
class Client {
  readonly told: string[] = []
  heartbeats = 0
  end: PercolateError | undefined
  readonly #stop = new AbortController()

  constructor(small: SmallCluster, node: string, cursor?: string) {
    const session = new Session(
      { tenant: small.tenant, access: 'read', consistency: ANY, asOf: undefined, forwardedBy: undefined },
      { signal: this.#stop.signal, hasEnded: false },
    )
    void this.#follow(small.process(node).changes.follow(session, { cursor, field: 'cursor' }, HEARTBEAT_MS))
  }

  stop(): void {
    this.#stop.abort()
  }

  async #follow(events: AsyncGenerator<ChangeEvent>): Promise<void> {
    try {
      for await (const { changes } of events) {
        if (!changes) this.heartbeats++
        for (const { id } of changes ?? []) this.told.push(id)
      }
    } catch (error) {
      this.end = error as PercolateError
    }
  }
}

/** Its copy is in the given state now and stays so; what others write then is told by them alone. */
async function goesOnElsewhere(small: SmallCluster, client: Client): Promise<void> {
  await small.until('the feed ends', () => client.end !== undefined, 3 * HEARTBEAT_MS)
  expect(client.end).toBeInstanceOf(PercolateError)
  expect(client.end).toMatchObject({ code: 'TENANT_UNAVAILABLE', extra: { cursor: expect.any(String) } })
  await small.write('n1', 'meanwhile')
  const next = new Client(small, 'n1', client.end!.extra!.cursor as string)
  await small.until('it is told elsewhere', () => next.told.length > 0)
  expect(next.told).toEqual(['meanwhile'])
  next.stop()
}

describe('a feed of a copy that takes no entries any more, while other nodes take writes', () => {
  it('ends when the copy is to go and cannot, with the cursor to go on from elsewhere', async () => {
    const small = await SmallCluster.start()
    await small.hold('n3', 'joining')
    await small.until('n3 is current', () => small.isCurrent('n3'))
    const client = new Client(small, 'n2')
    await small.until('the feed has begun', () => client.heartbeats > 0)
    // There are not enough others to have what it has.
    small.process('n3').kill()
    await small.hold('n2', 'dropping')
    await small.until('it is to go', () => small.state('n2') === 'dropping')
    await goesOnElsewhere(small, client)
    expect(small.state('n2')).toBe('dropping')
  })

  it('ends when its database is damaged and no other can be had', async () => {
    const small = await SmallCluster.start()
    const client = new Client(small, 'n2')
    await small.until('the feed has begun', () => client.heartbeats > 0)
    small.cluster.cuts.add('n1|n2')
    small.cluster.node('n2')!.disk.databases.get(small.tenant)!.rot = 'records'
    await expect(small.read('n2', 'first')).rejects.toMatchObject({ code: 'DATA_CORRUPT' })
    await goesOnElsewhere(small, client)
    expect(small.state('n2')).toBe('corrupt')
  })
})
