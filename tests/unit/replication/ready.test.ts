import { expect, it } from 'vitest'
import { parseTenantId } from '../../../src/base/ids.ts'
import { subjects } from '../../../src/stream/subjects.ts'
import { SmallCluster } from '../../support/small-cluster.ts'

/** The watch that a node has now tells of nothing more, until it is found deaf and opened anew. */
function deafen({ cluster, world }: SmallCluster, node: string, ms: number): void {
  cluster.nats.deaf.set(node, { sinceMs: world.nowMs, untilMs: world.nowMs + ms })
}

it('a node is ready when its watch has told of something new, not when it has read what was there', async () => {
  const small = await SmallCluster.start()
  const { cluster, world } = small
  small.process('n3').kill()
  await world.run(1000)
  cluster.node('n3')!.start()
  const { replica } = small.process('n3')
  const { directory } = replica
  let hasRead = false
  directory.onMembers(() => {
    if (!hasRead && directory.isWatching) deafen(small, 'n3', 20_000)
    hasRead ||= directory.isWatching
  })
  await small.until('the watch is found deaf', () => {
    expect(replica.state).toBe('starting')
    return directory.deafWatches > 0
  })
  await small.until('n3 is ready', () => replica.state === 'ready')
  expect(directory.isComplete).toBe(true)
})

/** n1's watch was found deaf and is not open again. */
async function betweenWatches(small: SmallCluster): Promise<void> {
  const { replica } = small.process('n1')
  deafen(small, 'n1', 20_000)
  await small.until('there is no watch', () => !replica.directory.isWatching)
}

it('a tenant is made while the watch is opened anew: the bucket itself says that it is the one that is followed', async () => {
  const small = await SmallCluster.start()
  const { replica } = small.process('n1')
  await betweenWatches(small)
  const tenant = parseTenantId('made')
  const routed = await small.settle(replica.router.route({ tenant, needsHome: false, forwardedBy: undefined }))
  expect([routed.kind, replica.state, replica.directory.isWatching]).toEqual(['local', 'ready', false])
  expect(await small.settle(replica.router.enter(tenant))).toBe(true)
  expect(replica.directory.isWatching).toBe(false)
})

it('and not made twice: one that another node made meanwhile is found', async () => {
  const small = await SmallCluster.start()
  const tenant = parseTenantId('made')
  await betweenWatches(small)
  expect(await small.settle(small.process('n2').replica.router.enter(tenant))).toBe(true)
  const { replica } = small.process('n1')
  expect(replica.directory.placement(tenant)).toBeUndefined()
  const entered = await small.settle(replica.router.enter(tenant))
  expect(entered).toBe(replica.copies.isCurrent(tenant))
  expect(replica.directory.placement(tenant)?.incarnation).toBe(
    small.process('n2').replica.directory.placement(tenant)!.incarnation,
  )
})

it.each(['lost', 'lost and made anew'])('nor while it is %s', async how => {
  const small = await SmallCluster.start()
  const { cluster, tenant } = small
  const { replica } = small.process('n1')
  await betweenWatches(small)
  cluster.log.dropBucket(subjects.clusterBucket)
  if (how === 'lost and made anew') await small.settle(small.process('n3').replica.directory.bucket())
  await expect(small.settle(replica.router.enter(parseTenantId('made')))).rejects.toMatchObject({
    code: 'PLACEMENT_UNKNOWN',
  })
  expect(replica.directory.isWatching).toBe(false)
  await small.until('the directory is back', () => replica.directory.isComplete)
  expect(replica.directory.placement(tenant)).toBeDefined()
})
