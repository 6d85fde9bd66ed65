import { PercolateError } from '../base/errors.ts'
import type { Logger } from '../base/logger.ts'
import type { Time } from '../base/time.ts'
import type { Directory } from './directory.ts'
import type { Member } from './placement.ts'

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

/** Part of the lease in which this node already holds itself for out, so that two monotonic clocks need not run alike. */
const LEASE_MARGIN = 0.2

/**
 * This node's record in the directory, rewritten every heartbeat. While a rewrite has succeeded within the lease, the node's homes are its own; nobody else takes
 * them before the lease is over by everybody's monotonic clock. The answers also tell the servers' wall clock, and so our own skew.
 */
export class Membership {
  readonly #options: MembershipOptions
  readonly #session: string
  readonly #stop = new AbortController()
  #revision = 0
  #beat = 0
  #leaseUntilMs = Number.NEGATIVE_INFINITY
  #term = 0
  #running: Promise<void> | undefined
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
  }

  async leave(): Promise<void> {
    await this.stop()
    const { directory, identity } = this.#options
    if (!this.#isFenced) await directory.deleteMember(identity.node)
  }

  /** Whether this node may act as the home of its tenants now. */
  get hasLease(): boolean {
    return !this.#isFenced && this.#options.time.monotonic() < this.#leaseUntilMs
  }

  /** Counts the times that a lease began anew: between two of them, others may have decided in this node's place. */
  get term(): number {
    return this.#term
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

  /** Writes the record now, for instance because its state changed. */
  async beat(): Promise<void> {
    const { directory, time, leaseMs, identity, describe } = this.#options
    const askedAtMs = time.monotonic()
    const wallMs = time.now()
    const member: Member = { ...identity, session: this.#session, beat: ++this.#beat, ...describe() }
    let written = await directory.writeMember(member, this.#revision)
    if (written === undefined) {
      const standing = await directory.readMember(identity.node)
      // Our own write whose answer was lost, a record that is gone with its bucket, or one that was put back with it: that one stands still.
      if (standing && standing.member.session !== this.#session && !this.#isStale(standing)) {
        this.#leaseUntilMs = Number.NEGATIVE_INFINITY
        if (!this.#isFenced) return
        throw new PercolateError(
          'NODE_ID_IN_USE',
          `Another process of the cluster runs as node "${identity.node}"; give one of them another PERCOLATE_NODE_ID.`,
        )
      }
      written = await directory.writeMember(member, standing?.revision ?? 0)
    }
    if (written === undefined) return
    this.#revision = written
    if (time.monotonic() >= this.#leaseUntilMs) this.#term++
    this.#leaseUntilMs = askedAtMs + leaseMs * (1 - LEASE_MARGIN)
    const tookMs = time.monotonic() - askedAtMs
    const standing = await directory.readMember(identity.node)
    // The servers wrote it somewhere between the two; a slow answer tells nothing.
    if (standing?.revision === written && tookMs < this.#options.clockSkewMsMax / 2)
      this.#skewMs = wallMs + tookMs / 2 - standing.writtenAtMs
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
    if (before && before.member.disk !== identity.disk) {
      await time.sleep(leaseMs, { signal: this.#stop.signal })
      const since = await directory.readMember(identity.node)
      if (since && since.member.session === before.member.session && since.member.beat > before.member.beat) {
        throw new PercolateError(
          'NODE_ID_IN_USE',
          `Another process of the cluster runs as node "${identity.node}", on another disk; give one of them another PERCOLATE_NODE_ID.`,
        )
      }
      this.#revision = since?.revision ?? 0
    } else this.#revision = before?.revision ?? 0
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
