import { isTenantId, type TenantId } from '../base/ids.ts'
import type { VersionVector } from '../clock/vector.ts'
import type { StreamInfo, StreamPort } from '../stream/port.ts'
import { subjects } from '../stream/subjects.ts'

/** Part of its byte limit beyond which a sync stream is trimmed, and the part that stays for holders that were away for a moment. */
const TRIM_ABOVE = 0.5
const KEPT = 0.25
/** Full streams that are remembered until the next round; of more, the round finds them in its turn. */
const FULL_MAX = 1000

export interface TrimmerOptions {
  readonly stream: StreamPort
  readonly bytesMax: number
  /** What every live complete holder has, when each has read the stream up to a sequence; undefined: one has not, or too few can be asked. */
  readonly covered: (tenant: TenantId, incarnation: string, sequence: number) => Promise<VersionVector | undefined>
  /** Writes down what the stream held; false when that could not be done. */
  readonly note: (tenant: TenantId, covered: VersionVector) => Promise<boolean>
}

/**
 * Drops the older part of sync streams that come near their byte limit, as soon as every live holder has read it: a tenant that writes much would otherwise wait for the age limit with its stream
 * full. What goes is written down before, so that a copy that lacks it is brought up to date by another holder.
 */
export class Trimmer {
  readonly #options: TrimmerOptions
  readonly #full = new Set<string>()
  readonly #stopListening: () => void

  constructor(options: TrimmerOptions) {
    this.#options = options
    this.#stopListening = options.stream.listen(subjects.full, data => {
      const name = data.toString()
      if (this.#full.size < FULL_MAX && isTenantId(name)) this.#full.add(subjects.syncStream(name as TenantId))
    })
  }

  stop(): void {
    this.#stopListening()
  }

  /** Streams whose publishers say that they are full. */
  takeFull(): string[] {
    const names = [...this.#full]
    this.#full.clear()
    return names
  }

  /** Whether something was dropped. */
  async trim(tenant: TenantId, name: string, info: StreamInfo): Promise<boolean> {
    const { stream, bytesMax, covered, note } = this.#options
    if (info.sealed || info.bytes <= bytesMax * TRIM_ABOVE) return false
    const kept = Math.ceil((info.messages * bytesMax * KEPT) / info.bytes)
    const last = info.lastSequence - kept
    if (last < info.firstSequence) return false
    const vector = await covered(tenant, info.incarnation, last)
    if (!vector || !(await note(tenant, vector))) return false
    await stream.trimStream(name, last + 1)
    return true
  }
}
