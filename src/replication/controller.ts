import { isTenantId, type TenantId } from '../base/ids.ts'
import type { Logger } from '../base/logger.ts'
import { Slicer } from '../base/slice.ts'
import type { Time } from '../base/time.ts'
import { joinVectors, meetVectors, type VersionVector, vectorToObject } from '../clock/vector.ts'
import type { StreamPort } from '../stream/port.ts'
import { subjects } from '../stream/subjects.ts'
import type { Directory } from './directory.ts'
import { Leadership } from './leadership.ts'
import { type LeaseOver, LeaseProof } from './lease-proof.ts'
import { MembersNow } from './members-now.ts'
import type { PeerPort } from './peer.ts'
import { activeHolders, choosePlaces, chooseSurplus, type Holder, type Placement, PUT_BACK } from './placement.ts'
import type { SnapshotStore } from './snapshots.ts'
import { Trimmer } from './trim.ts'

export interface ControllerOptions {
  /** Names this process among the controllers. */
  readonly name: string
  readonly time: Time
  readonly logger: Logger
  readonly directory: Directory
  readonly stream: StreamPort
  readonly peers: PeerPort
  readonly snapshots: SnapshotStore | undefined
  readonly replicas: number
  readonly leaseMs: number
  readonly roundMs: number
  /** A holder that is away for this long gets a replacement. */
  readonly replaceAfterMs: number
  /** A holder that is away for this long is no holder any more; when it returns, it has to catch up first. */
  readonly forgetAfterMs: number
  /** A sync stream without messages for this long is reaped, when that is safe. */
  readonly streamIdleMs: number
  /** Of a tenant's sync stream; one that comes near is trimmed. */
  readonly syncBytesMax: number
}

export interface ControllerCounts {
  added: number
  dropped: number
  forgotten: number
  homes: number
  reaped: number
  trimmed: number
  restored: number
}

interface Change {
  readonly next: Placement
  readonly kind: keyof ControllerCounts
  readonly text: string
  /** What must be proven first: that a node's lease is over, and that it has written nothing for so long. */
  readonly needs?: { readonly node: string; readonly silenceMs: number }
}

/** Changes to the directory in one round; the rest waits for the next. */
const CHANGES_MAX = 100
/** Streams looked at in one round. */
const STREAMS_MAX = 50
/** How long a placement stands unchanged before a copy too many goes: one that was made where a tenant's requests enter is the next home, a moment later. */
const SURPLUS_RESTS_MS = 5000

/**
 * Keeps the cluster as it should be: enough copies of each tenant, spread over zones; a home for each; no streams that nobody needs. Of several controllers one leads, by
 * a lease in the cluster's bucket. It gives orders through the directory only, each a compare-and-set under its fencing token; nodes carry them out and
 * check for themselves.
 */
export class Controller {
  readonly counts: ControllerCounts = {
    added: 0,
    dropped: 0,
    forgotten: 0,
    homes: 0,
    reaped: 0,
    trimmed: 0,
    restored: 0,
  }
  readonly #options: ControllerOptions
  readonly #stop = new AbortController()
  readonly #leadership: Leadership
  readonly #proof: LeaseProof
  #streamsAfter = ''
  /** Tiers of tenants that only their snapshots know, and that have no node now; undefined: the snapshots were not listed yet. */
  #tiersToRestore: ReadonlySet<string> | undefined
  readonly #trimmer: Trimmer
  #running: Promise<void> | undefined

  constructor(options: ControllerOptions) {
    this.#options = options
    this.#trimmer = new Trimmer({
      stream: options.stream,
      bytesMax: options.syncBytesMax,
      // A copy that is being made brings what it lacks from another holder.
      covered: (tenant, incarnation, sequence) =>
        this.#coverage(tenant, incarnation, sequence, ({ state }) => state === 'active'),
      note: (tenant, covered) => this.#noteCovered(tenant, covered),
    })
    const { time, directory, leaseMs } = options
    this.#leadership = new Leadership({ ...options, name: `${options.name}.${time.random(4).toString('hex')}` })
    this.#proof = new LeaseProof({ time, directory, leaseMs })
  }

  start(): void {
    this.#running = this.#run()
  }

  /** Ends the round and releases the lease: another controller leads at once. */
  async stop(): Promise<void> {
    this.#stop.abort()
    this.#trimmer.stop()
    await this.#running
    await this.#leadership.release().catch(error => {
      this.#options.logger.warn({ reason: String(error) }, 'the lease could not be released; it ends by itself')
    })
  }

  get isLeading(): boolean {
    return this.#leadership.isLeading
  }

  get token(): number {
    return this.#leadership.token
  }

  async #run(): Promise<void> {
    const { time, roundMs, logger } = this.#options
    const { signal } = this.#stop
    let failures = 0
    while (!signal.aborted) {
      try {
        await this.#leadership.lead()
        if (this.isLeading) await this.#round()
        failures = 0
      } catch (error) {
        if (failures++ % 20 === 0 && !signal.aborted)
          logger.warn({ reason: String(error) }, 'a round of the controller failed')
      }
      await time.sleep(roundMs, { signal, ref: false }).catch(() => {})
    }
  }

  async #round(): Promise<void> {
    const { directory } = this.#options
    if (!directory.isWatching) return
    await this.#restoreFromSnapshots()
    await this.#look()
    await this.#reap()
  }

  /** Looks at every placement, in slices: renewing the lease, the activator and the probes get their turn in between. */
  async #look(): Promise<void> {
    const slicer = new Slicer()
    const proofs = new Map<string, Promise<LeaseOver | undefined>>()
    let members = this.#membersNow()
    let changes = 0
    for (const placement of this.#options.directory.placements()) {
      if (slicer.due) {
        await slicer.pause()
        members = this.#membersNow()
      }
      if (changes >= CHANGES_MAX || !this.isLeading || this.#stop.signal.aborted) return
      const change = this.#wanted(placement, members)
      if (!change) continue
      if (await this.#reconcile(placement, change, proofs)) changes++
      members = this.#membersNow()
    }
  }

  #membersNow(): MembersNow {
    return new MembersNow(this.#options.directory, this.#options.time.monotonic() - this.#leadership.sinceMs)
  }

  /**
   * One change to a placement at most; whether there was one. The placement was read before anything is proven (`proofs`: in this round), and the change is made only if it stands unchanged: nobody has claimed
   * anything under a new lease in between.
   */
  async #reconcile(
    placement: Placement,
    change: Change,
    proofs: Map<string, Promise<LeaseOver | undefined>>,
  ): Promise<boolean> {
    const over = change.needs ? await this.#prove(change.needs, proofs) : undefined
    if (change.needs && !over) return false
    const before = placement.version
    const { token } = this
    const decidesAboveMs = Math.max(placement.decidesAboveMs ?? 0, over?.decidedBelowMs ?? 0)
    const standing = await this.#options.directory.update(placement.tenant, current => {
      // Somebody else changed it, or a later controller decided: the next round looks anew.
      if (current.version !== before || !this.isLeading) return undefined
      if ((current.token ?? 0) > token) {
        this.#leadership.outbid(current.token!)
        return undefined
      }
      return { ...change.next, token, ...(decidesAboveMs > 0 ? { decidesAboveMs } : {}) }
    })
    const done = standing !== undefined && standing.version > before && standing.token === token
    if (done) {
      this.counts[change.kind]++
      this.#options.logger.info({ tenant: placement.tenant, change: change.text }, 'placement changed')
    }
    return done
  }

  async #prove(
    { node, silenceMs }: NonNullable<Change['needs']>,
    proofs: Map<string, Promise<LeaseOver | undefined>>,
  ): Promise<LeaseOver | undefined> {
    const key = `${node} ${silenceMs}`
    const known = proofs.get(key) ?? this.#proof.isOver(node, silenceMs)
    proofs.set(key, known)
    return known
  }

  #wanted(placement: Placement, members: MembersNow): Change | undefined {
    const { directory, replicas, replaceAfterMs, forgetAfterMs, leaseMs } = this.#options
    const { tenant, holders } = placement
    const awayMs = (node: string) => members.awayMs(node)
    const ready = members.ready(placement.tier)
    const isUp = (node: string) => members.isUp(node, placement.tier)

    const active = activeHolders(placement)
    const liveActive = active.filter(({ node }) => isUp(node))
    const homeAwayMs = placement.home === undefined ? Number.POSITIVE_INFINITY : awayMs(placement.home)
    const homeLeft = placement.home !== undefined && directory.member(placement.home) === undefined
    if (liveActive.length > 0 && (placement.home === undefined || homeAwayMs > leaseMs || homeLeft)) {
      const home = choosePlaces(
        tenant,
        ready.filter(({ node }) => liveActive.some(holder => holder.node === node)),
        1,
      )[0]!
      return {
        next: { ...placement, home, epoch: placement.epoch + 1 },
        kind: 'homes',
        text: `home ${placement.home ?? 'none'} → ${home}`,
        // That nothing is heard of it proves nothing.
        ...(placement.home === undefined ? {} : { needs: { node: placement.home, silenceMs: 0 } }),
      }
    }

    const target = Math.min(replicas, ready.length)
    const counted = holders.filter(({ node, state }) => state !== 'dropping' && awayMs(node) < replaceAfterMs)
    if (counted.length < target && ready.length > 0) {
      const kept = holders.map(({ node }) => node)
      const free = ready.filter(({ node }) => !kept.includes(node))
      const zonesTaken = counted.flatMap(({ node }) => directory.member(node) ?? [])
      const chosen = choosePlaces(
        tenant,
        [...zonesTaken, ...free],
        zonesTaken.length + 1,
        zonesTaken.map(m => m.node),
      ).find(node => !kept.includes(node))
      if (chosen)
        return {
          next: { ...placement, holders: [...holders, { node: chosen, state: 'joining' }] },
          kind: 'added',
          text: `copy on ${chosen}`,
        }
    }

    const gone = holders.find(({ node }) => awayMs(node) > forgetAfterMs)
    if (gone && liveActive.length >= Math.max(1, Math.min(target, replicas)) && gone.node !== placement.home)
      return {
        next: { ...placement, holders: holders.filter(holder => holder !== gone) },
        kind: 'forgotten',
        text: `${gone.node} is away too long to be a holder`,
        needs: { node: gone.node, silenceMs: forgetAfterMs },
      }

    const isMoving = holders.some(({ state }) => state !== 'active')
    const hasRested = this.#options.time.now() - placement.changedAtMs >= SURPLUS_RESTS_MS
    const isSurplus = liveActive.length === active.length && liveActive.length > replicas && ready.length >= replicas
    if (!isMoving && hasRested && isSurplus) {
      const surplus = chooseSurplus(tenant, placement, node => directory.member(node)?.zone)
      if (surplus)
        return {
          next: {
            ...placement,
            holders: holders.map(holder => (holder.node === surplus ? { ...holder, state: 'dropping' } : holder)),
          },
          kind: 'dropped',
          text: `copy on ${surplus} is one too many`,
        }
    }
    return undefined
  }

  /** With the directory and every disk gone, the snapshots tell which tenants there are. */
  async #restoreFromSnapshots(): Promise<void> {
    const { snapshots, directory, replicas, time, logger } = this.#options
    if (!snapshots || !directory.isComplete) return
    const ready = directory.members().filter(({ member, isLive }) => isLive && member.state === 'ready')
    if (ready.length === 0) return
    const known = this.#tiersToRestore
    if (known && !ready.some(({ member }) => known.has(member.tier))) return
    const asleep = new Set<string>()
    for await (const name of snapshots.tenants()) {
      // Anything else there is not ours.
      if (!isTenantId(name)) continue
      const tenant = name
      if (directory.placement(tenant) || (await directory.fetch(tenant))) continue
      const latest = await snapshots.latest(tenant)
      if (!latest) continue
      this.#leadership.assertLeading()
      const { tier = ready[0]!.member.tier, incarnation } = latest
      const places = ready.filter(({ member }) => member.tier === tier).map(({ member }) => member)
      const nodes = choosePlaces(tenant, places, replicas)
      if (nodes.length === 0) {
        // Its tier has no node now.
        asleep.add(tier)
        continue
      }
      await directory.create({
        tenant,
        incarnation,
        tier,
        holders: nodes.map(node => ({ node, state: 'joining' })),
        home: undefined,
        epoch: 1,
        generation: PUT_BACK,
        version: 1,
        changedAtMs: time.now(),
      })
      this.counts.restored++
      logger.warn({ tenant }, 'a tenant that only its snapshot knows was put back into the directory')
    }
    this.#tiersToRestore = asleep
  }

  /**
   * Deletes sync streams that are idle. Looked at first: every holder has read it to its end. Then it is sealed, which no publisher gets past; looked at again; only then
   * deleted. Publishers that come meanwhile keep their entries and make a new one.
   */
  async #reap(): Promise<void> {
    const { stream, directory, time, streamIdleMs } = this.#options
    if (poolMode(directory.cluster?.syncStreams)) return
    const names = (await stream.streamNames(subjects.syncStreamPrefix)).sort()
    const left = names.filter(name => name > this.#streamsAfter).slice(0, STREAMS_MAX)
    this.#streamsAfter = left.length < STREAMS_MAX ? '' : left.at(-1)!
    const full = this.#trimmer.takeFull().filter(name => names.includes(name) && !left.includes(name))
    for (const name of [...full, ...left]) {
      if (!this.isLeading || this.#stop.signal.aborted) return
      const info = await stream.streamInfo(name)
      if (!info) continue
      const tenant = name.slice(subjects.syncStreamPrefix.length) as TenantId
      if (await this.#trimmer.trim(tenant, name, info)) this.counts.trimmed++
      const isIdle = time.now() - info.lastAtMs > streamIdleMs
      if (!info.sealed && !isIdle) continue
      if (!info.sealed) {
        if (!(await this.#coverage(tenant, info.incarnation, info.lastSequence))) continue
        this.#leadership.assertLeading()
        await stream.sealStream(name)
      }
      const sealed = await stream.streamInfo(name)
      if (!sealed?.sealed) continue
      const covered = await this.#coverage(tenant, sealed.incarnation, sealed.lastSequence)
      if (!covered) continue
      // Written before the stream goes: who comes back later and finds nothing to read can tell whether it missed something.
      if (!(await this.#noteCovered(tenant, covered))) continue
      // Deleting is by name: it must still be the one that was looked at, and nobody else may lead.
      const last = await stream.streamInfo(name)
      if (!last?.sealed || last.incarnation !== sealed.incarnation) continue
      this.#leadership.assertLeading()
      await stream.deleteStream(name)
      this.counts.reaped++
    }
  }

  /** False when there is no such placement any more, or a later controller gives orders about it. Throws when this one does not lead any more: what follows cannot be undone. */
  async #noteCovered(tenant: TenantId, covered: VersionVector): Promise<boolean> {
    const { token } = this
    const standing = await this.#options.directory.update(tenant, current =>
      this.isLeading && (current.token ?? 0) <= token
        ? {
            ...current,
            token,
            covered: vectorToObject(joinVectors(new Map(Object.entries(current.covered ?? {})), covered)),
          }
        : undefined,
    )
    this.#leadership.assertLeading()
    if (standing?.token !== undefined && standing.token > token) this.#leadership.outbid(standing.token)
    return standing?.token === token
  }

  /**
   * Every live holder has read the stream to its end, and they are at least two, or all there are. One that is away is brought up to date by another holder
   * when it returns, as after any hole.
   */
  async #coverage(
    tenant: TenantId,
    incarnation: string,
    sequence: number,
    isAsked: (holder: Holder) => boolean = ({ state }) => state !== 'dropping',
  ): Promise<VersionVector | undefined> {
    const { directory, peers } = this.#options
    const placement = directory.placement(tenant)
    // A copy that is going waits for its outbox, and that for the next stream: it must not be waited for.
    const holders = placement?.holders.filter(isAsked) ?? []
    if (holders.length === 0) return undefined
    let readers = 0
    let covered: VersionVector | undefined
    for (const { node } of holders) {
      if (!directory.isLive(node)) continue
      const vector = await peers
        .to(node)
        .hasRead(tenant, incarnation, sequence)
        .catch(() => undefined)
      if (!vector) return undefined
      covered = covered ? meetVectors(covered, vector) : vector
      readers++
    }
    return readers >= Math.min(2, holders.length) ? covered : undefined
  }
}

const poolMode = (mode: string | undefined): boolean => mode === undefined || mode !== 'per-tenant'
