import { afterEach, beforeEach, expect, it } from 'vitest'
import { parseTenantId } from '../../../src/base/ids.ts'
import { Slicer } from '../../../src/base/slice.ts'
import { planEntity } from '../../../src/rem/plan.ts'
import { SimCluster } from '../../sim/cluster.ts'
import { World } from '../../sim/world.ts'

const warnings: string[] = []
const onWarning = (warning: Error) => void warnings.push(`${warning.name}: ${warning.message}`)
beforeEach(() => {
  warnings.length = 0
  process.on('warning', onWarning)
})
afterEach(() => void process.off('warning', onWarning))

it('any number of tenants may wait to be published while NATS is away; nothing is taken for a leak', async () => {
  Slicer.sliceMs = Number.POSITIVE_INFINITY
  const world = new World(1)
  const cluster = new SimCluster(world, 1)
  cluster.nodes[0]!.start()
  await world.run(3500)
  const { handle, replica } = ((node = cluster.nodes[0]!.process!) => ({
    handle: node.handle.bind(node),
    replica: node.replica,
  }))()
  const tenants = Array.from({ length: 40 }, (_, n) => parseTenantId(`t${n}`))
  const writeAll = async (id: string) => {
    for (const tenant of tenants) {
      const answer = handle(
        { tenant, ref: { kind: 'entity', key: [id] }, write: (_, clock) => planEntity({ id, type: 't' }, clock) },
        undefined,
      )
      await world.settle(answer, 20_000)
    }
  }
  await writeAll('a')
  await world.run(5000)
  expect(replica.publisher.isBusy).toBe(false)
  cluster.natsDown = true
  await writeAll('b')
  await world.run(3000)
  await new Promise(resolve => setImmediate(resolve))
  expect(tenants.filter(tenant => !replica.publisher.isClean(tenant)).length).toBeGreaterThan(11)
  expect(warnings).toEqual([])
  cluster.natsDown = false
  expect(await world.runUntil(() => !replica.publisher.isBusy, 60_000)).toBe(true)
})
