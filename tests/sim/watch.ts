import type { TenantId } from '../../src/base/ids.ts'
import { decodeEntry } from '../../src/storage/codec.ts'
import { keys } from '../../src/storage/keys.ts'
import { subjects } from '../../src/stream/subjects.ts'
import type { SimAnswer, SimCluster } from './cluster.ts'
import type { History } from './history.ts'

/** Looks at the cluster while it lives, for what must hold at every moment and not only in the end. */
export class Watch {
  readonly #cluster: SimCluster
  readonly #tenants: readonly TenantId[]
  readonly #history: History
  /** By disk and tenant: the last sequence of each origin that a client was told of. */
  readonly #acknowledged = new Map<string, Map<string, number>>()
  /** By disk and stream: how far what its reader has read was looked at. */
  readonly #readTo = new Map<string, number>()
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
      this.#readersAreHonest(tenant)
    }
  }

  /** A node that says that it has read a stream to its end, which is what lets the stream be deleted, has all of it, or keeps it on disk until its time comes. */
  #readersAreHonest(tenant: TenantId): void {
    const { nodes, log, counts } = this.#cluster
    const stream = log.streams.get(subjects.syncStream(tenant))
    // Other entries have come under the sequences of those that were lost.
    if (!stream || counts.has('fault: stream tail lost')) return
    const { incarnation, lastSequence } = stream
    for (const { id, disk, process } of nodes) {
      if (!process?.replica.copies.isCurrent(tenant)) continue
      const open = process.pool.openTenants().find(each => each.id === tenant)
      if (!open || !process.replica.follower.hasRead(tenant, incarnation, lastSequence)) continue
      const name = `${disk.id}${id} ${incarnation}`
      const lookedAt = this.#readTo.get(name) ?? 0
      this.#readTo.set(name, lastSequence)
      for (const message of stream.messages) {
        if (message.sequence <= lookedAt) continue
        const { origin, sequence } = decodeEntry(message.data)
        const isParked = disk.databases.get(tenant)?.get(keys.parked(origin, sequence).toString('latin1')) !== undefined
        if ((open.vector.get(origin) ?? 0) < sequence && !isParked) {
          this.#report(`${id} says that it has read the stream of ${tenant}, and lacks ${origin}/${sequence}`)
          return
        }
      }
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
