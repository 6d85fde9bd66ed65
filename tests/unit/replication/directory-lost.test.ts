import { describe, expect, it } from 'vitest'
import { parseTenantId } from '../../../src/base/ids.ts'
import { PUT_BACK } from '../../../src/replication/placement.ts'
import { subjects } from '../../../src/stream/subjects.ts'
import { SmallCluster } from '../../support/small-cluster.ts'

it('two placements of one version, from two lives of the directory, become one that every node has', async () => {
  const small = await SmallCluster.start()
  const { cluster, tenant, world } = small
  const nodes = cluster.nodes.map(({ id }) => id)
  const cut = (names: readonly string[]) => {
    for (const node of cluster.nodes) node.natsCut = names.includes(node.id)
  }
  cut(['n2', 'n3'])
  const changed = await small.settle(
    small.process('n1').replica.directory.update(tenant, current => ({ ...current, home: 'n2' })),
  )
  cut(nodes)
  cluster.log.dropBucket(subjects.clusterBucket)
  // Who missed that puts back what it knows, with the next version, which is the one that n1 has seen before.
  cut(['n1', 'n3'])
  await small.until('n2 puts it back', () => small.placement('n2').version === changed!.version)
  expect(small.placement('n2').home).toBe('n1')
  cut([])
  await world.run(15_000)
  const [first, ...others] = nodes.map(node => small.placement(node))
  for (const other of others) expect(other).toEqual(first)
  expect(first!.version).toBeGreaterThan(changed!.version)
})

/** The bucket and every stream go, as when all servers come back with empty disks. */
function loseStores({ cluster: { log } }: SmallCluster): void {
  log.dropBucket(subjects.clusterBucket)
  for (const name of [...log.streams.keys()]) log.deleteStream(name)
}

/** These nodes' disks go too, after that or before. */
async function loseStoresAndDisks(small: SmallCluster, names: readonly string[], order: 'stores' | 'disks') {
  const { cluster, world } = small
  const disks = () => {
    for (const name of names) {
      small.process(name).kill()
      cluster.node(name)!.loseDisk()
    }
  }
  if (order === 'stores') {
    loseStores(small)
    await world.run(15_000)
    disks()
  } else {
    disks()
    loseStores(small)
  }
  await world.run(1000)
  for (const name of names) cluster.node(name)!.start()
  await world.run(60_000)
}

describe('a tenant of which no disk is left, after the servers lost their streams', () => {
  for (const order of ['stores', 'disks'] as const)
    it(`is not taken for one that was never written: ${order} first`, async () => {
      const small = await SmallCluster.start()
      await loseStoresAndDisks(small, ['n1', 'n2'], order)
      expect(
        small
          .placement('n3')
          .holders.map(({ node }) => node)
          .sort(),
      ).toEqual(['n1', 'n2'])
      expect([small.state('n1'), small.state('n2')]).toEqual(['joining', 'joining'])
      expect(small.process('n1').replica.copies.reason(small.tenant)).toMatch(/No other copy can be reached/)
      // Nor when they start once more, with what they left on their disks.
      for (const name of ['n1', 'n2']) {
        small.process(name).kill()
        small.cluster.node(name)!.start()
      }
      await small.world.run(30_000)
      expect([small.state('n1'), small.state('n2')]).toEqual(['joining', 'joining'])
      // What came into the new stream has gaps, and makes no copy whatever anybody says.
      if (order === 'stores') return
      // Unless somebody who knows gives the directory's own generation as its: then there is nothing to be had.
      const { directory } = small.process('n3').replica
      const { generation } = directory.cluster!
      await small.settle(directory.update(small.tenant, current => ({ ...current, generation })))
      await small.until('the copies are current', () => small.isCurrent('n1') && small.isCurrent('n2'))
    })

  it('nor when its whole cluster starts anew, with the fresh disks first, and only the cache of another node knows it', async () => {
    const small = await SmallCluster.start()
    small.process('n3').kill()
    await loseStoresAndDisks(small, ['n1', 'n2'], 'disks')
    small.cluster.node('n3')!.start()
    await small.world.run(60_000)
    expect(
      small
        .placement('n3')
        .holders.map(({ node }) => node)
        .sort(),
    ).toEqual(['n1', 'n2'])
    expect([small.state('n1'), small.state('n2')]).toEqual(['joining', 'joining'])
  })

  it('nor when they are lost while its stream is read: the copy that was begun is made empty again, and waits', async () => {
    const small = await SmallCluster.start()
    const { world } = small
    const made = parseTenantId('made')
    const { follower } = small.process('n1').replica
    const catchUp = follower.catchUp.bind(follower)
    let readings = 0
    follower.catchUp = async tenant => {
      if (tenant === made && readings++ === 0) {
        loseStores(small)
        // Others put back what they know.
        await small.process('n1').time.sleep(20_000)
      }
      return catchUp(tenant)
    }
    const holders = [{ node: 'n1', state: 'joining' as const }]
    await small.settle(
      small.process('n1').replica.directory.create({
        ...small.placement(),
        tenant: made,
        holders,
        home: undefined,
        version: 1,
      }),
    )
    await world.run(60_000)
    expect(readings).toBe(1)
    expect(small.process('n1').replica.copies.state(made)).toBe('joining')
    expect(await small.settle(small.process('n1').pool.use(made, async open => open.isJoining))).toBe(true)
  })

  it('and one that was made after the loss is made again from its stream, which has all of it', async () => {
    const small = await SmallCluster.start()
    const { cluster, world } = small
    loseStores(small)
    await world.run(15_000)
    const later = parseTenantId('later')
    expect(await small.settle(small.process('n1').replica.router.enter(later))).toBe(true)
    for (const name of ['n1', 'n2', 'n3']) small.process(name).kill()
    for (const name of ['n1', 'n2', 'n3']) {
      cluster.node(name)!.loseDisk()
      cluster.node(name)!.start()
    }
    await world.run(60_000)
    const states = cluster.nodes.map(({ process }) => process!.replica.copies.state(later))
    expect(states.filter(state => state === 'current')).toHaveLength(2)
  })
})

describe('a tenant whose maker died at its making, while the servers lost their stores', () => {
  const later = parseTenantId('later')

  /** The maker has entered it, and is its only holder; others know of it. */
  async function entered(): Promise<SmallCluster> {
    const small = await SmallCluster.start({ settings: { replicas: 1 } })
    expect(await small.settle(small.process('n1').replica.router.enter(later))).toBe(true)
    await small.world.run(3000)
    return small
  }

  /** The database goes as by hand; what the disk says otherwise stays. */
  async function losesDatabase(small: SmallCluster) {
    small.process('n1').kill()
    small.cluster.node('n1')!.disk.databases.delete(later)
    small.cluster.node('n1')!.start()
    await diesAndReturns(small)
  }

  async function diesAndReturns(small: SmallCluster) {
    small.process('n1').kill()
    loseStores(small)
    await small.world.run(15_000)
    small.cluster.node('n1')!.start()
    await small.world.run(60_000)
  }

  it('is made when the maker is back: its disk says that nothing was ever written', async () => {
    const small = await entered()
    await diesAndReturns(small)
    expect(small.process('n2').replica.directory.placement(later)?.generation).toBe(PUT_BACK)
    expect(small.process('n1').replica.copies.state(later)).toBe('current')
  })

  it('and also when it dies twice, with the copy half made', async () => {
    const small = await entered()
    small.process('n1').kill()
    loseStores(small)
    await small.world.run(15_000)
    const node = small.cluster.node('n1')!
    node.start()
    await small.until('the database is made', () => node.disk.databases.has(later))
    await diesAndReturns(small)
    expect(small.process('n1').replica.copies.state(later)).toBe('current')
  })

  it('is not made anew once it was written', async () => {
    const small = await entered()
    const { pool } = small.process('n1')
    await small.settle(pool.use(later, async () => {}, { create: true }))
    await losesDatabase(small)
    expect(small.process('n1').replica.copies.state(later)).toBe('joining')
  })

  it('nor once it was made so', async () => {
    const small = await entered()
    await diesAndReturns(small)
    expect(small.process('n1').replica.copies.state(later)).toBe('current')
    await losesDatabase(small)
    expect(small.process('n1').replica.copies.state(later)).toBe('joining')
  })

  it('is made also when its folder is there, without a database', async () => {
    const small = await entered()
    const node = small.cluster.node('n1')!
    small.process('n1').kill()
    node.disk.halfMade.add(later)
    node.start()
    await small.world.run(60_000)
    expect(small.process('n1').replica.copies.state(later)).toBe('current')
  })

  it('nor when the disk is gone that said so', async () => {
    const small = await entered()
    small.cluster.node('n1')!.loseDisk()
    await diesAndReturns(small)
    expect(small.process('n1').replica.copies.state(later)).toBe('joining')
  })
})

describe('the note of a making whose outcome never became known', () => {
  const later = parseTenantId('later')

  /** n1 was about to enter the tenant when it was cut off; then n2 makes it. */
  async function madeByAnother({ isKilled = false } = {}) {
    const small = await SmallCluster.start({ settings: { replicas: 1 } })
    const n1 = small.cluster.node('n1')!
    n1.natsCut = true
    await expect(small.settle(small.process('n1').replica.router.enter(later))).rejects.toMatchObject({
      code: 'STREAM_UNAVAILABLE',
    })
    expect(n1.disk.making.has(later)).toBe(true)
    if (isKilled) n1.process!.kill()
    await small.settle(small.process('n2').replica.router.enter(later))
    await small.world.run(3000)
    expect(n1.disk.making.has(later)).toBe(true)
    n1.natsCut = false
    if (isKilled) n1.start()
    await small.until('n1 knows', () => small.process('n1').replica.directory.placement(later) !== undefined)
    await small.world.run(100)
    return small
  }

  it('goes when the tenant is seen to be of another making', async () => {
    const small = await madeByAnother()
    expect(small.cluster.node('n1')!.disk.making.has(later)).toBe(false)
    expect(small.process('n1').replica.copies.state(later)).toBe('absent')
  })

  it('also when the node died meanwhile', async () => {
    const small = await madeByAnother({ isKilled: true })
    expect(small.cluster.node('n1')!.disk.making.has(later)).toBe(false)
  })
})
