import { expect, it } from 'vitest'
import type { OperationsContext } from '../../../src/api/operations/context.ts'
import { ReplicationOperations } from '../../../src/api/operations/replication.ts'
import { ANY } from '../../../src/session/request.ts'
import { Session } from '../../../src/session/session.ts'
import { SmallCluster } from '../../support/small-cluster.ts'

/** What a client asks at n1, and how often the holders were asked for the digests of their copies, at most so many at once. */
async function started() {
  const small = await SmallCluster.start({ settings: { antiEntropyMs: 1e9 } })
  const { replica } = small.process('n1')
  const seen = { asked: [] as string[], now: 0, most: 0 }
  for (const node of ['n1', 'n2']) {
    const { service } = small.process(node).replica
    const digests = service.digests.bind(service)
    service.digests = async (...args) => {
      seen.asked.push(node)
      seen.most = Math.max(seen.most, ++seen.now)
      await small.process(node).time.sleep(100)
      seen.now--
      return digests(...args)
    }
  }
  const operations = new ReplicationOperations({ replica } as OperationsContext)
  const check = (client = new AbortController()) => {
    const request = { tenant: small.tenant, access: 'read', consistency: ANY, asOf: undefined, forwardedBy: undefined }
    const { signal } = client
    const ending = {
      signal,
      get hasEnded() {
        return signal.aborted
      },
    }
    return operations.check(new Session({ ...request, access: 'read' }, ending))
  }
  return { small, seen, check }
}

it('holders are compared for one client of a tenant after the other, and few wait for that', async () => {
  const { small, seen, check } = await started()
  const answers = await small.settle(Promise.allSettled(Array.from({ length: 20 }, () => check())))
  const codes = answers.map(answer => (answer.status === 'fulfilled' ? answer.value.equal : answer.reason.code))
  expect([...new Set(codes)].sort()).toEqual(['TOO_BUSY', true])
  expect(codes.filter(code => code === true).length).toBe(5)
  expect(seen.most).toBe(1)
})

it('a comparison ends with its client: the next holder is not asked, and who waits has its turn', async () => {
  const { small, seen, check } = await started()
  const client = new AbortController()
  const gone = check(client)
  const waiting = check()
  gone.catch(() => {})
  await small.world.run(50)
  client.abort()
  await expect(small.settle(gone)).rejects.toMatchObject({ code: 'CANCELLED' })
  expect((await small.settle(waiting)).equal).toBe(true)
  expect(seen.asked).toHaveLength(3)
})

it('names ten of many differences', async () => {
  const { small, check } = await started()
  for (let n = 0; n < 40; n++) await small.write('n1', `e${n}`)
  await small.world.run(5000)
  await small.open('n2', open =>
    open.change(async staging => {
      for (let n = 0; n < 40; n++) await staging.remove({ kind: 'entity', key: [`e${n}`] })
    }),
  )
  const [comparison] = (await small.settle(check())).comparisons
  expect([comparison!.verdict, comparison!.differences.length]).toEqual(['different', 10])
})
