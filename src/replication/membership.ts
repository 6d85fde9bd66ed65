import { PercolateError } from '../base/errors.ts'
import type { Logger } from '../base/logger.ts'
import type { Time } from '../base/time.ts'
import type { Directory } from './directory.ts'
import { type Member, PROTOCOL } from './placement.ts'

export interface MembershipOptions {
  readonly directory: Directory
  readonly time: Time
  readonly logger: Logger
  readonly heartbeatMs: number
  readonly leaseMs: number
  readonly clockSkewMsMax: number
  readonly identity: Pick<
    Member,
    'node' | 'disk' | 'zone' | 'tier' | 'http' | 'grpc' | 'version' | 'routerHost' | 'pod'
  >
  readonly describe: () => Pick<Member, 'state' | 'unpublished' | 'tenants' | 'reported'>
}

/**
 * Part of the lease in which its holder already holds itself for out. It is the drift that is assumed: while another node's monotonic clock measures a lease, the holder's measures at least this
 * much less than one.
 */
export const LEASE_MARGIN = 0.2

/**
 * This node's record in the directory, rewritten every heartbeat by a compare-and-set on what it wrote before. While a rewrite has succeeded within the lease, the node's homes are its own; nobody else
 * takes them before it is over ({@link LeaseProof}). A chain of such rewrites, each asked for before the lease that the one before it gave was over, is a *term*; another begins when the lease lapsed, was ended by somebody else, or when
 * the record is not what was written (the directory was lost or put back). The answers also tell the servers' wall clock, and so our own skew.
 */
export class Membership {
  readonly #options: MembershipOptions
  readonly #session: string
  readonly #stop = new AbortController()
  #revision = 0
  #beat = 0
  #leaseUntilMs = Number.NEGATIVE_INFINITY
  #term = 0
  /** The beat that was confirmed last, by its answer. */
  #confirmedBeat = 0
  /** The chain of our own writes was found broken; the next write that is confirmed begins a term. */
  #isBroken = false
  /** Until when no home is claimed: the directory is not the one of before, and others may not have noticed yet. */
  #settlesAtMs = Number.NEGATIVE_INFINITY
  /** Decisions of this term carry no wall clock above it; as of the last write that was confirmed. */
  #decidesBelowMs = 0
  /** What decisions under this node's record may carry that were not made by this process. */
  #inheritedMs = 0
  /** A clock that a decision had to carry and could not. */
  #wantedMs = 0
  /** The servers' wall clock when we last knew it, and our monotonic one then. */
  #servers: { readonly wallMs: number; readonly atMs: number } | undefined
  #running: Promise<void> | undefined
  #beating: Promise<void> | undefined
  #skewMs = 0
  #isFenced = false
  #rival: { session: string; beat: number; sinceMs: number } | undefined

  constructor(options: MembershipOptions) {
    this.#options = options
    this.#session = options.time.random(8).toString('hex')
  }

  /**
   * Takes over the record of this node's id, unless another live process has it: NODE_ID_IN_USE. The same disk proves that the earlier process is gone, since
   * its data directory was locked; another disk waits out the lease. Without NATS it goes on trying in the background.
   */
  async start(): Promise<void> {
    await this.#claim().catch(error => {
      if (error instanceof PercolateError && error.code === 'NODE_ID_IN_USE') throw error
      this.#options.logger.warn({ reason: String(error) }, 'not a member of the cluster yet; trying on')
    })
    this.#running = this.#run()
  }

  /** Ends the lease at once and leaves. */
  async stop(): Promise<void> {
    this.#leaseUntilMs = Number.NEGATIVE_INFINITY
    this.#stop.abort()
    await this.#running
    await this.#beating?.catch(() => {})
  }

  /** Ends the lease, and says so in the record: others need not wait for it. */
  async leave(): Promise<void> {
    await this.stop()
    const { directory, identity, describe } = this.#options
    if (this.#isFenced) return
    const member = { ...this.#record(), ...describe(), decidesBelowMs: this.#decidesBelowMs, ended: true }
    if ((await directory.writeMember(member, this.#revision)) !== undefined) return
    // The answer to our last write may have been lost.
    const standing = await directory.readMember(identity.node)
    if (standing?.member.session === this.#session) await directory.writeMember(member, standing.revision)
  }

  /** Whether this node may act as the home of its tenants now. */
  get hasLease(): boolean {
    return !this.#isFenced && this.#options.time.monotonic() < this.#leaseUntilMs
  }

  /** Whether it may claim homes, beside those that it has claimed. */
  get mayClaim(): boolean {
    return this.hasLease && this.#options.time.monotonic() >= this.#settlesAtMs
  }

  /** Counts the times that a lease began anew: between two of them, others may have decided in this node's place. */
  get term(): number {
    return this.#term
  }

  /** Wall clock, milliseconds since the epoch, that no decision of this term may be above: whoever follows decides above it, so that what this node commits too late never wins. */
  get decidesBelowMs(): number {
    return this.#decidesBelowMs
  }

  /** Wall clock up to which another process under this node's id may have decided. */
  get inheritedMs(): number {
    return this.#inheritedMs
  }

  /** Wall clock, milliseconds since the epoch, that no decision of any node that has been made by now is above; generously, since each node's idea of the servers' clock is a little off. */
  get decidedUpToMs(): number {
    const { time, leaseMs, clockSkewMsMax } = this.#options
    // Our own clock may be far behind, and be put right as soon as the home is ours.
    return Math.max(time.now(), this.#serversMs ?? 0) + 2 * clockSkewMsMax + leaseMs
  }

  /** The servers' wall clock now; undefined: not known yet. */
  get #serversMs(): number | undefined {
    return this.#servers && this.#servers.wallMs + this.#options.time.monotonic() - this.#servers.atMs
  }

  /** A decision needs a clock above {@link decidesBelowMs}: the next heartbeat raises it, as far as clocks may be ahead. */
  wantClock(wallMs: number): void {
    this.#wantedMs = Math.max(this.#wantedMs, wallMs)
  }

  /** Another process runs under this node's id: this one must not take requests. */
  get isFenced(): boolean {
    return this.#isFenced
  }

  /** This node's wall clock minus the servers', milliseconds, as of the last heartbeat. */
  get skewMs(): number {
    return this.#skewMs
  }

  /** Throws CLOCK_SKEWED while the wall clock is too far from the servers'. */
  admitWrite(): void {
    const { clockSkewMsMax } = this.#options
    if (Math.abs(this.#skewMs) <= clockSkewMsMax) return
    throw new PercolateError(
      'CLOCK_SKEWED',
      `This node's clock is ${Math.round(this.#skewMs / 1000)} s from the cluster's; writes are refused until it is within ${clockSkewMsMax / 1000} s.`,
      { retryAfterS: 5 },
    )
  }

  #record(): Omit<Member, 'state' | 'unpublished' | 'tenants' | 'reported'> {
    return { ...this.#options.identity, protocol: PROTOCOL, session: this.#session, beat: ++this.#beat }
  }

  /**
   * Above every clock that is decided with until this lease is over, unless our wall clock jumps; never further ahead of the servers' than clocks may be. Who doesn't know the servers' clock yet decides nothing.
   */
  #boundMs(): number {
    const { time, leaseMs, clockSkewMsMax } = this.#options
    const serversMs = this.#serversMs
    if (serversMs === undefined) return this.#inheritedMs
    const wanted = Math.max(time.now(), this.#wantedMs)
    return Math.max(this.#inheritedMs, this.#decidesBelowMs, Math.min(wanted, serversMs + clockSkewMsMax) + leaseMs)
  }

  /** Writes the record now, for instance because its state changed. One at a time. */
  beat(): Promise<void> {
    const beating = (this.#beating ?? Promise.resolve()).catch(() => {}).then(() => this.#write())
    this.#beating = beating
    return beating
  }

  async #write(): Promise<void> {
    const { directory, time, leaseMs, identity, describe } = this.#options
    const askedAtMs = time.monotonic()
    const wallMs = time.now()
    const decidesBelowMs = Math.ceil(this.#boundMs())
    const member: Member = { ...this.#record(), ...describe(), ...(decidesBelowMs > 0 ? { decidesBelowMs } : {}) }
    let written = await directory.writeMember(member, this.#revision)
    if (written === undefined) {
      const standing = await directory.readMember(identity.node)
      // Our own write whose answer was lost, a record that is gone with its bucket, or one that was put back with it: that one stands still.
      if (standing && !this.#isOurs(standing.member) && !this.#isStale(standing)) {
        this.#leaseUntilMs = Number.NEGATIVE_INFINITY
        if (!this.#isFenced) return
        throw new PercolateError(
          'NODE_ID_IN_USE',
          `Another process of the cluster runs as node "${identity.node}"; give one of them another PERCOLATE_NODE_ID.`,
        )
      }
      this.#lookForBreak(standing?.member)
      if (standing && standing.member.session !== this.#session)
        this.#inheritedMs = Math.max(this.#inheritedMs, standing.member.decidesBelowMs ?? 0)
      written = await directory.writeMember(member, standing?.revision ?? 0)
    }
    if (written === undefined || this.#stop.signal.aborted) return
    this.#revision = written
    this.#confirmedBeat = member.beat
    const hasLapsed = time.monotonic() >= this.#leaseUntilMs
    if (this.#isBroken || hasLapsed) this.#term++
    // After a lapse our own record proves nothing, not even when it is as we left it: it may have been put back as it was then.
    if (hasLapsed && this.#term > 1 && !this.#isAlone) this.#settle()
    this.#isBroken = false
    this.#leaseUntilMs = askedAtMs + leaseMs * (1 - LEASE_MARGIN)
    if (this.#servers) this.#decidesBelowMs = decidesBelowMs
    const tookMs = time.monotonic() - askedAtMs
    const standing = await directory.readMember(identity.node)
    // The servers wrote it somewhere between the two; a slow answer tells nothing.
    if (standing?.revision !== written || tookMs >= this.#options.clockSkewMsMax / 2) return
    this.#skewMs = wallMs + tookMs / 2 - standing.writtenAtMs
    this.#servers = { wallMs: standing.writtenAtMs, atMs: askedAtMs + tookMs / 2 }
  }

  /** A record without a session was made by somebody who doubted a node that had none. */
  #isOurs(member: Member): boolean {
    return member.session === this.#session || (member.ended === true && member.session === '')
  }

  /** Whether what stands instead of our last confirmed write is a later one of ours, whose answer was lost; else others may have decided in our place. */
  #lookForBreak(standing: Member | undefined): void {
    if (standing?.session === this.#session && standing.beat > this.#confirmedBeat && !standing.ended) return
    this.#isBroken = true
    // Ended by somebody who waited for our lease to be over; else the directory is not what it was.
    if (!standing?.ended) this.#settle()
  }

  /** Somebody may decide in our place of whom this directory tells nothing: it was lost, or put back from before they took over. Their leases end within one. */
  #settle(): void {
    this.#settlesAtMs = this.#options.time.monotonic() + this.#options.leaseMs
  }

  get #isAlone(): boolean {
    const { directory, identity } = this.#options
    return directory.members().every(({ member }) => member.node === identity.node)
  }

  /** Whether a record of another session under our id has stood still for a lease; one that moves fences this process. */
  #isStale(standing: { member: Member }): boolean {
    const { time, leaseMs } = this.#options
    const now = time.monotonic()
    const rival = this.#rival
    if (rival?.session !== standing.member.session) {
      this.#rival = { session: standing.member.session, beat: standing.member.beat, sinceMs: now }
      return false
    }
    // A record that was put back from a backup may come again, but it does not go on.
    if (standing.member.beat > rival.beat) {
      this.#isFenced = true
      return false
    }
    return now - rival.sinceMs > leaseMs
  }

  async #claim(): Promise<void> {
    const { directory, time, leaseMs, identity } = this.#options
    const before = await directory.readMember(identity.node)
    this.#inheritedMs = before?.member.decidesBelowMs ?? 0
    if (before && before.member.disk !== identity.disk && !before.member.ended) {
      await time.sleep(leaseMs, { signal: this.#stop.signal })
      const since = await directory.readMember(identity.node)
      if (since && since.member.session === before.member.session && since.member.beat > before.member.beat) {
        throw new PercolateError(
          'NODE_ID_IN_USE',
          `Another process of the cluster runs as node "${identity.node}", on another disk; give one of them another PERCOLATE_NODE_ID.`,
        )
      }
      this.#inheritedMs = Math.max(this.#inheritedMs, since?.member.decidesBelowMs ?? 0)
      this.#revision = since?.revision ?? 0
    } else this.#revision = before?.revision ?? 0
    await this.beat()
    // Now that the servers' clock is known, the record says how far decisions go.
    await this.beat()
  }

  async #run(): Promise<void> {
    const { time, heartbeatMs, logger } = this.#options
    const { signal } = this.#stop
    let failures = 0
    while (!signal.aborted) {
      await time.sleep(heartbeatMs, { signal, ref: false }).catch(() => {})
      if (signal.aborted) return
      try {
        if (this.#revision === 0 && this.#beat === 0) await this.#claim()
        else await this.beat()
        failures = 0
      } catch (error) {
        if (this.#isFenced) logger.error({ err: String(error) }, 'this node no longer takes requests')
        else if (failures++ % 20 === 0) logger.warn({ reason: String(error) }, 'a heartbeat failed')
      }
    }
  }
}
