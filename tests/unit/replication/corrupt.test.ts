import { describe, expect, it } from 'vitest'
import { PercolateError } from '../../../src/base/errors.ts'
import { parseTenantId } from '../../../src/base/ids.ts'
import { planEntity } from '../../../src/rem/plan.ts'
import { SmallCluster } from '../../support/small-cluster.ts'

const damaged = (small: SmallCluster, node: string) => small.cluster.node(node)!.disk.databases.get(small.tenant)!

describe('a copy whose database is damaged while it runs', () => {
  it('goes out of service at once and is made anew from another, which gets what it never published', async () => {
    const small = await SmallCluster.start()
    await small.write('n2', 'before')
    await small.world.run(2000)
    // Acknowledged at level local, and not published: the node is cut from the servers.
    small.cluster.node('n2')!.natsCut = true
    await small.settle(small.put('n2', 'unpublished'))
    damaged(small, 'n2').rot = 'records'
    await expect(small.read('n2', 'before')).rejects.toMatchObject({ code: 'DATA_CORRUPT' })
    expect(small.state('n2')).toBe('corrupt')
    await expect(small.put('n2', 'later')).rejects.toMatchObject({ code: 'TENANT_UNAVAILABLE' })
    small.cluster.node('n2')!.natsCut = false
    await small.until('n2 is current again', () => small.isCurrent('n2'))
    expect(await small.read('n2', 'before')).toBeDefined()
    await small.until('n2 has caught up', () => !small.process('n2').replica.applier.hasHole(small.tenant))
    for (const node of ['n1', 'n2']) expect(await small.read(node, 'unpublished'), node).toBeDefined()
    expect(small.process('n2').replica.copies.counts.corrupt).toBe(1)
  })

  it('stays, and says so, as long as no other has a healthy one', async () => {
    const small = await SmallCluster.start()
    small.cluster.cuts.add('n1|n2')
    damaged(small, 'n2').rot = 'records'
    await expect(small.read('n2', 'first')).rejects.toMatchObject({ code: 'DATA_CORRUPT' })
    await small.world.run(10_000)
    expect(small.state('n2')).toBe('corrupt')
    expect(small.process('n2').replica.copies.reason(small.tenant)).toMatch(/damaged, and no other node/)
    expect(damaged(small, 'n2')).toBeDefined()
    small.cluster.cuts.clear()
    await small.until('n2 is current again', () => small.isCurrent('n2'))
  })

  it('goes on answering what can be read when it is the only one', async () => {
    const small = await SmallCluster.start()
    await small.hold('n2', 'dropping')
    await small.until('n2 is gone', () => small.state('n2') === 'absent')
    damaged(small, 'n1').rot = 'records'
    await expect(small.read('n1', 'first')).rejects.toMatchObject({ code: 'DATA_CORRUPT' })
    expect(small.state('n1')).toBe('current')
  })

  it('is not taken for damaged because something from elsewhere did not decode', async () => {
    const small = await SmallCluster.start()
    const foreign = small.open('n2', async () => {
      throw new PercolateError('DATA_CORRUPT', 'A cursor of a client does not decode.')
    })
    await expect(foreign).rejects.toMatchObject({ code: 'DATA_CORRUPT' })
    await small.world.run(1000)
    expect(small.state('n2')).toBe('current')
    expect(small.process('n2').replica.copies.counts.corrupt).toBe(0)
  })

  it('does not keep the other tenants of its pool stream waiting', async () => {
    const small = await SmallCluster.start({ settings: { syncStreams: 'pooled:1' } })
    const other = parseTenantId('other')
    const { router } = small.process('n1').replica
    await small.settle(router.enter(other))
    const put = (id: string) =>
      small
        .process('n1')
        .pool.use(other, open => open.write(({ clock }) => ({ ops: planEntity({ id }, clock), result: undefined })), {
          create: true,
        })
    await small.settle(put('first'))
    await small.settle(
      small.process('n1').replica.directory.update(other, current => ({
        ...current,
        holders: ['n1', 'n2'].map(node => ({ node, state: node === 'n1' ? 'active' : 'joining' })),
      })),
    )
    await small.until('n2 holds the other', () => small.process('n2').replica.copies.isCurrent(other))
    // With nobody to make it anew from.
    small.cluster.cuts.add('n1|n2')
    damaged(small, 'n2').rot = 'records'
    for (let n = 0; n < 20; n++) {
      await small.write('n1', `e${n}`)
      await small.settle(put(`e${n}`))
    }
    await small.world.run(3000)
    expect(small.state('n2')).toBe('corrupt')
    const found = await small.settle(
      small.process('n2').pool.use(other, open => open.record({ kind: 'entity', key: ['e19'] })),
    )
    expect(found).toBeDefined()
  })
})
