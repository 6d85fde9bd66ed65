import type { IncomingMessage } from 'node:http'
import { PercolateError } from '../src/base/errors.ts'
import type { TenantId } from '../src/base/ids.ts'
import type { Time } from '../src/base/time.ts'
import type { BusyUploads, PlacedUpload } from './busy-uploads.ts'

export interface PaceOptions {
  readonly time: Time
  /** A client that sends nothing for this long is given up; so is a form whose file does not begin, or that does not end after it, in this time. */
  readonly idleMs: number
  /** What the bytes of a file must come at, on the average over `idleMs`. */
  readonly bytesPerSecondMin: number
  /** And over a third of it, while others wait for its place and no slower upload is in their way; the longer it has its place, the more of it is asked for, see {@link Pace}. */
  readonly bytesPerSecondMinWhenBusy: number
  /** From the first byte to the last, whatever the pace. */
  readonly uploadMsMax: number
  readonly tenant: TenantId
  /** Who gives way to those who wait. */
  readonly busy: BusyUploads
}

/**
 * What an upload is doing: *form* (parts before the file) → *queued* (bytes of the file have come, waits for a place) → *file* (holds a place) →
 * *rest* (parts after the file). Time in *queued*, and time in which S3 holds us back in *file*, is not the client's.
 */
type Phase = 'form' | 'queued' | 'file' | 'rest'

const CHECKS_PER_IDLE = 6
/** Of these, those over which an upload is measured when others wait for its place. */
const CHECKS_WHEN_BUSY = 2
const CHECK_MS_MIN = 20
/** An upload that we could not read on with for this long fails: S3 hangs. */
const HELD_BACK_MS_MAX = 120_000

/**
 * Times a client from the first byte of its upload to the last, so that one who is silent, slow or half gone holds nothing for long. While others
 * wait for its place, an upload that sends next to nothing gives way after a sixth of the idle time, and the slowest that is slower than an ordinary connection after a third.
 *
 * Who is a little faster than that must not keep others out for hours: of the slower half of the uploads, the slowest gives way to others who have waited for a third of the idle time when it is slower, over all the
 * time that it has its place, than `bytesPerSecondMinWhenBusy` for each such third: 64 KiB/s after ten seconds, 1 MiB/s after 160.
 */
export class Pace implements PlacedUpload {
  readonly #options: PaceOptions
  readonly #request: IncomingMessage
  readonly tenant: TenantId
  bytesPerSecond: number | undefined
  bytesPerSecondInAll: number | undefined
  readonly #stop = new AbortController()
  readonly #stalled = new AbortController()
  #phase: Phase = 'form'
  #phaseSince: number
  #heldBack = () => false
  /** Rejects when the client (or S3) has had its time. */
  readonly stalled: Promise<never>

  constructor(request: IncomingMessage, options: PaceOptions) {
    this.#options = options
    this.#request = request
    this.tenant = options.tenant
    this.#phaseSince = options.time.monotonic()
    const { signal } = this.#stalled
    this.stalled = new Promise((_, reject) =>
      signal.addEventListener('abort', () => reject(signal.reason), { once: true }),
    )
    this.stalled.catch(() => {})
    void this.#watch()
  }

  /** Fires with the reason that {@link stalled} rejects with. */
  get signal(): AbortSignal {
    return this.#stalled.signal
  }

  enter(phase: Phase, heldBack: () => boolean = () => false): void {
    this.#phase = phase
    this.#phaseSince = this.#options.time.monotonic()
    this.#heldBack = heldBack
  }

  end(): void {
    this.#stop.abort()
  }

  async #watch(): Promise<void> {
    const { time, idleMs, bytesPerSecondMin, bytesPerSecondMinWhenBusy, uploadMsMax, busy } = this.#options
    const startedAt = time.monotonic()
    const checkMs = Math.max(CHECK_MS_MIN, idleMs / CHECKS_PER_IDLE)
    const bytesPerCheck = (bytesPerSecondMin * checkMs) / 1000
    /** Bytes of the last checks in which the client could have sent, newest last. */
    let recent: number[] = []
    let phase = this.#phase
    let seen = this.#request.socket.bytesRead
    let heldBackMs = 0
    /** Of the time in its place, that in which the client could have sent, and what came in it. */
    const inAll = { ms: 0, bytes: 0 }
    const busyMs = checkMs * CHECKS_WHEN_BUSY
    for (;;) {
      await time.sleep(checkMs, { signal: this.#stop.signal, ref: false }).catch(() => {})
      if (this.#stop.signal.aborted) return
      const bytes = this.#request.socket.bytesRead - seen
      seen += bytes
      this.bytesPerSecond = undefined
      if (time.monotonic() - startedAt > uploadMsMax)
        return this.#giveUp(
          `The upload took longer than ${uploadMsMax / 1000} s (PERCOLATE_UPLOAD_MS_MAX)`,
          'Send a smaller file, or over a faster connection.',
        )
      if (phase !== this.#phase) {
        phase = this.#phase
        recent = []
        heldBackMs = 0
        continue
      }
      if (phase === 'form' || phase === 'rest') {
        if (time.monotonic() - this.#phaseSince < idleMs) continue
        return this.#giveUp(
          phase === 'form'
            ? `The part "file" did not begin within ${idleMs / 1000} s`
            : `The form did not end within ${idleMs / 1000} s after its file`,
        )
      }
      if (phase === 'queued' || this.#heldBack()) {
        recent = []
        heldBackMs += checkMs
        if (phase === 'file' && heldBackMs > HELD_BACK_MS_MAX)
          return this.#stalled.abort(
            new PercolateError('OBJECT_STORE_UNAVAILABLE', 'S3 takes no bytes; nothing was kept. Send the file again.'),
          )
        continue
      }
      heldBackMs = 0
      inAll.ms += checkMs
      inAll.bytes += bytes
      recent = [...recent, bytes].slice(-CHECKS_PER_IDLE)
      if (bytes < bytesPerCheck && busy.isWanted(this))
        return this.#giveUp('The client sent next to nothing while other uploads waited')
      if (recent.length >= CHECKS_WHEN_BUSY) {
        const lately = recent.slice(-CHECKS_WHEN_BUSY).reduce((sum, part) => sum + part, 0)
        this.bytesPerSecond = (lately / busyMs) * 1000
        if (this.bytesPerSecond < bytesPerSecondMinWhenBusy && busy.isSlowestWanted(this))
          return this.#giveUp(
            `The client sent ${Math.round(this.bytesPerSecond)} bytes/s while other uploads waited, less than PERCOLATE_UPLOAD_BYTES_PER_SECOND_MIN_WHEN_BUSY, ${bytesPerSecondMinWhenBusy}`,
            'Send the file again when less is going on, or over a faster connection.',
          )
      }
      if (inAll.ms >= busyMs) {
        this.bytesPerSecondInAll = (inAll.bytes / inAll.ms) * 1000
        const wanted = bytesPerSecondMinWhenBusy * (inAll.ms / busyMs)
        if (this.bytesPerSecondInAll < wanted && busy.isSlowestInAll(this, busyMs))
          return this.#giveUp(
            `Others waited for a place to upload, and of the slower half of the uploads this was the slowest: ${Math.round(this.bytesPerSecondInAll)} bytes/s over ${Math.round(inAll.ms / 1000)} s, less than the ${Math.round(wanted)} that PERCOLATE_UPLOAD_BYTES_PER_SECOND_MIN_WHEN_BUSY asks for after so long`,
            'Send the file again when less is going on, in smaller files, or over a faster connection.',
          )
      }
      if (recent.length < CHECKS_PER_IDLE) continue
      const total = recent.reduce((sum, part) => sum + part, 0)
      if (total === 0) return this.#giveUp(`The client sent nothing for ${idleMs / 1000} s`)
      if (total < bytesPerCheck * CHECKS_PER_IDLE)
        return this.#giveUp(`The client sent less than ${bytesPerSecondMin} bytes/s for ${idleMs / 1000} s`)
    }
  }

  #giveUp(why: string, remedy = 'Send the file again.'): void {
    this.#options.busy.leave(this)
    this.#stalled.abort(new PercolateError('UPLOAD_STALLED', `${why}; nothing was kept. ${remedy}`))
  }
}
