import type { ScaledObject } from './scaled-object.ts'

/** What one round over the triggers of a ScaledObject found. */
export interface Activity {
  /** A trigger is above its activation threshold. */
  readonly isActive: boolean
  /** A trigger could not be read. */
  readonly isError: boolean
}

/**
 * KEDA's part between zero, or idle, and the minimum: `RequestScale` of its scale executor
 * (https://github.com/kedacore/keda/blob/v2.16.1/pkg/scaling/executor/scale_scaledobjects.go). Above the minimum the HPA decides.
 */
export class Keda {
  readonly #object: ScaledObject
  readonly #speed: number
  #lastActiveMs: number | undefined

  /** `speed` divides the cooldown. */
  constructor(object: ScaledObject, speed: number) {
    this.#object = object
    this.#speed = speed
  }

  /** The replicas to set now; undefined: nothing to do. */
  decide(nowMs: number, current: number, { isActive, isError }: Activity): number | undefined {
    const { minReplicaCount, idleReplicaCount } = this.#object
    if (isActive) {
      if ((idleReplicaCount !== undefined && current < minReplicaCount) || current === 0) {
        this.#lastActiveMs = nowMs
        return Math.max(1, minReplicaCount)
      }
      if (!isError) this.#lastActiveMs = nowMs
      return undefined
    }
    // No trigger is known to be active, but one could not be read: nothing is decided on what is not known.
    if (isError) return undefined
    const canIdle = idleReplicaCount !== undefined && current > idleReplicaCount
    if (canIdle || (current > 0 && minReplicaCount === 0)) {
      const cooledMs = (this.#object.cooldownPeriod * 1000) / this.#speed
      if (this.#lastActiveMs !== undefined && nowMs - this.#lastActiveMs < cooledMs) return undefined
      return idleReplicaCount ?? 0
    }
    if (current < minReplicaCount && idleReplicaCount === undefined) return minReplicaCount
    return undefined
  }

  /** The HPA works on what is not idle and not zero. */
  isHpaOn(current: number): boolean {
    return current > 0 && !(this.#object.idleReplicaCount !== undefined && current <= this.#object.idleReplicaCount)
  }
}
