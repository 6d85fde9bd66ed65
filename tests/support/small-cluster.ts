import { parseTenantId, type TenantId } from '../../src/base/ids.ts'
import { Slicer } from '../../src/base/slice.ts'
import type { ObjectStore } from '../../src/objects/port.ts'
import { planEntity } from '../../src/rem/plan.ts'
import type { LwwRecord } from '../../src/rem/record.ts'
import { holderOf, type Placement } from '../../src/replication/placement.ts'
import type { ReplicaSettings } from '../../src/replication/replica.ts'
import type { Tenant } from '../../src/tenant/tenant.ts'
import { SimCluster, type SimProcess, TIMES } from '../sim/cluster.ts'
import { World } from '../sim/world.ts'

/**
 * The real replication code on simulated time, for tests that stage one event instead of living a random life: a few nodes, a tenant, and a directory that is
 * changed by hand, so that nothing happens but what the test does.
 */
export class SmallCluster {
  readonly world: World
  readonly cluster: SimCluster
  readonly tenant: TenantId

  private constructor(nodes: number, settings: ReplicaSettings, tenant: string, objects?: ObjectStore) {
    Slicer.sliceMs = Number.POSITIVE_INFINITY
    this.world = new World(1)
    this.cluster = new SimCluster(this.world, nodes, settings, 1, objects)
    this.tenant = parseTenantId(tenant)
  }

  /** A cluster in which `tenant` has copies on the first two nodes, the home first. */
  static async start(
    options: {
      nodes?: number
      settings?: Partial<ReplicaSettings>
      tenant?: string
      openTenantsMax?: number
      /** Where the tenant has its snapshots; without it there are none. */
      objects?: ObjectStore
    } = {},
  ): Promise<SmallCluster> {
    const { nodes = 3, tenant = 'acme', objects } = options
    const small = new SmallCluster(nodes, { ...TIMES, ...options.settings }, tenant, objects)
    small.cluster.openTenantsMax = options.openTenantsMax ?? small.cluster.openTenantsMax
    await small.#stopController()
    for (const node of small.cluster.nodes) node.start()
    await small.world.run(3500)
    await small.write('n1', 'first')
    const placement = small.placement('n1')
    const others = placement.holders.map(({ node }) => node).filter(node => node !== 'n1')
    // Rendezvous hashing chose the second; the tests name it n2.
    const names = ['n2', ...others]
    for (const node of new Set(names)) await small.hold(node, node === 'n2' ? 'joining' : undefined)
    await small.until('two copies are current', () => small.isCurrent('n1') && small.isCurrent('n2'))
    return small
  }

  async #stopController(): Promise<void> {
    for (const { controller } of this.cluster.controllers) await this.settle(controller.stop())
  }

  process(node: string): SimProcess {
    return this.cluster.node(node)!.process!
  }

  placement(node = 'n1'): Placement {
    return this.process(node).replica.directory.placement(this.tenant)!
  }

  isCurrent(node: string): boolean {
    return this.process(node).replica.copies.isCurrent(this.tenant)
  }

  state(node: string): string {
    return this.process(node).replica.copies.state(this.tenant)
  }

  /** Changes the directory's word about a node's copy; undefined: it is no holder. */
  async hold(node: string, state: 'joining' | 'active' | 'dropping' | undefined): Promise<void> {
    await this.settle(
      this.process('n1').replica.directory.update(this.tenant, current => {
        if (state === 'joining' && holderOf(current, node)) return undefined
        const rest = current.holders.filter(holder => holder.node !== node)
        return { ...current, holders: state ? [...rest, { node, state }] : rest }
      }),
    )
  }

  /** Writes an entity through the node's own copy; resolves when it is acknowledged. `slowMs`: what a provider takes between the lease and the commit. */
  put(node: string, id: string, slowMs: { underLease?: number; inPlan?: number } = {}): Promise<void> {
    const { pool, time } = this.process(node)
    return pool.use(
      this.tenant,
      async open => {
        if (slowMs.underLease) await time.sleep(slowMs.underLease)
        await open.write(async ({ clock }) => {
          if (slowMs.inPlan) await time.sleep(slowMs.inPlan)
          return { ops: planEntity({ id, properties: { from: node } }, clock), result: undefined }
        })
      },
      { create: true },
    )
  }

  /** As a client's write: through the router, then {@link put}. */
  async write(node: string, id: string): Promise<void> {
    const { replica } = this.process(node)
    if (replica.router.isNew(this.tenant)) await this.settle(replica.router.enter(this.tenant))
    await this.settle(this.put(node, id))
  }

  async read(node: string, id: string): Promise<LwwRecord | undefined> {
    return this.open(node, open => open.record({ kind: 'entity', key: [id] }))
  }

  async open<T>(node: string, work: (open: Tenant) => Promise<T>): Promise<T | undefined> {
    return this.settle(this.process(node).pool.use(this.tenant, work))
  }

  async settle<T>(work: Promise<T>, ms = 60_000): Promise<T> {
    const outcome = await this.world.settle(work, ms)
    if (!outcome) throw new Error('it did not settle')
    if ('error' in outcome) throw outcome.error
    return outcome.value
  }

  async until(what: string, met: () => boolean, ms = 60_000): Promise<void> {
    if (!(await this.world.runUntil(met, ms))) throw new Error(`never happened: ${what}`)
  }
}
