import type { TenantId } from '../../src/base/ids.ts'
import type { SimAnswer, SimCluster } from './cluster.ts'
import type { History } from './history.ts'

/** Looks at the cluster while it lives, for what must hold at every moment and not only in the end. */
export class Watch {
  readonly #cluster: SimCluster
  readonly #tenants: readonly TenantId[]
  readonly #history: History
  /** By disk and tenant: the last sequence of each origin that a client was told of. */
  readonly #acknowledged = new Map<string, Map<string, number>>()
  readonly #madeAnewAtMs = new Map<string, number>()

  constructor(cluster: SimCluster, tenants: readonly TenantId[], history: History) {
    this.#cluster = cluster
    this.#tenants = tenants
    this.#history = history
  }

  acknowledged(tenant: TenantId, { node, disk, position }: SimAnswer, calledAtMs: number): void {
    const name = `${disk}${node} ${tenant}`
    if (calledAtMs < (this.#madeAnewAtMs.get(name) ?? Number.NEGATIVE_INFINITY)) return
    const known = this.#acknowledged.get(name) ?? new Map<string, number>()
    for (const [origin, sequence] of position) known.set(origin, Math.max(sequence, known.get(origin) ?? 0))
    this.#acknowledged.set(name, known)
  }

  /** The copy is made anew; what only it had is set aside, where an operator finds it. */
  madeAnew(node: string, disk: string, tenant: TenantId): void {
    this.#acknowledged.delete(`${disk}${node} ${tenant}`)
    this.#madeAnewAtMs.set(`${disk}${node} ${tenant}`, this.#cluster.world.nowMs)
  }

  look(): void {
    for (const tenant of this.#tenants) {
      this.#oneHome(tenant)
      this.#currentCopiesAreHonest(tenant)
    }
  }

  /** A paused process decides nothing; it has to look again when it goes on. */
  #oneHome(tenant: TenantId): void {
    const { nodes, world } = this.#cluster
    const homes = nodes.filter(
      ({ process }) => process && process.pausedUntilMs <= world.nowMs && process.replica.homes.holdsLease(tenant),
    )
    if (homes.length > 1) this.#report(`${homes.map(({ id }) => id).join(' and ')} are the home of ${tenant} at once`)
  }

  /** A copy that answers for a tenant has every write that it has answered for. */
  #currentCopiesAreHonest(tenant: TenantId): void {
    for (const { id, disk, process } of this.#cluster.nodes) {
      const name = `${disk.id}${id}`
      if (!process?.replica.copies.isCurrent(tenant) || this.#history.lostDisks.has(name)) continue
      const open = process.pool.openTenants().find(each => each.id === tenant)
      const acknowledged = this.#acknowledged.get(`${name} ${tenant}`)
      if (!open || !acknowledged) continue
      for (const [origin, sequence] of acknowledged)
        if ((open.vector.get(origin) ?? 0) < sequence)
          this.#report(`${id} calls its copy of ${tenant} current, and lacks a write that it acknowledged`)
    }
  }

  #report(violation: string): void {
    this.#cluster.note(`VIOLATION ${violation}`)
    if (!this.#history.violations.includes(violation)) this.#history.violations.push(violation)
  }
}
