import { setTimeout as sleep } from 'node:timers/promises'
import { errorMessage } from '../../src/base/errors.ts'
import { Hpa, replicasFor } from './hpa.ts'
import { Keda } from './keda.ts'
import type { ScaledObject } from './scaled-object.ts'
import { type Hosts, readTrigger } from './triggers.ts'

/** How often the HPA looks (kube-controller-manager `--horizontal-pod-autoscaler-sync-period`). */
const HPA_SYNC_S = 15
/** However fast time goes, nothing is asked more often. */
const ROUND_MS_MIN = 200
/** The HPA looks after three scrapes, as in production: what shows for one scrape must not look lasting. Its windows and periods go no faster either. */
const HPA_SYNC_MS_MIN = 3 * ROUND_MS_MIN
const HPA_SPEED_MAX = (HPA_SYNC_S * 1000) / HPA_SYNC_MS_MIN

/** What is scaled: a StatefulSet or Deployment, here of processes. */
export interface ScaleTarget {
  /** Replicas that were asked for. */
  readonly wanted: number
  /** Replicas that exist, ready or not. */
  readonly present: number
  scale(replicas: number, reason: string): void
}

export interface ScalerState {
  readonly name: string
  readonly wanted: number
  readonly present: number
  /** Last values of the triggers, by name; undefined: it could not be read. */
  readonly values: Readonly<Record<string, number | undefined>>
  readonly error: string | undefined
}

/** One ScaledObject at work: KEDA's loop between zero and the minimum, and the HPA above it. */
export class Autoscaler {
  readonly object: ScaledObject
  readonly #target: ScaleTarget
  readonly #hosts: Hosts
  readonly #speed: number
  readonly #keda: Keda
  readonly #hpa: Hpa
  readonly #stop = new AbortController()
  readonly #values = new Map<string, number | undefined>()
  #error: string | undefined
  #isPaused = false
  #running: Promise<unknown> = Promise.resolve()

  /** `speed` divides every interval, window and cooldown. */
  constructor(object: ScaledObject, target: ScaleTarget, hosts: Hosts, speed: number) {
    this.object = object
    this.#target = target
    this.#hosts = hosts
    this.#speed = speed
    this.#keda = new Keda(object, speed)
    const min = Math.max(1, object.minReplicaCount)
    this.#hpa = new Hpa({
      min,
      max: object.maxReplicaCount,
      behavior: object.behavior,
      speed: Math.min(speed, HPA_SPEED_MAX),
    })
  }

  start(): void {
    this.#running = Promise.all([
      this.#every(this.object.pollingInterval, this.#speed, () => this.#poll()),
      this.#every(HPA_SYNC_S, Math.min(this.#speed, HPA_SPEED_MAX), () => this.#sync()),
    ])
  }

  async stop(): Promise<void> {
    this.#stop.abort()
    await this.#running
  }

  /** As the annotation `autoscaling.keda.sh/paused-replicas` does: that many, and neither KEDA nor the HPA changes it. */
  pause(replicas: number, reason: string): void {
    this.#isPaused = true
    this.#target.scale(replicas, reason)
  }

  /** As removing the annotation does. */
  resume(): void {
    this.#isPaused = false
  }

  state(): ScalerState {
    const { wanted, present } = this.#target
    return { name: this.object.name, wanted, present, values: Object.fromEntries(this.#values), error: this.#error }
  }

  async #every(seconds: number, speed: number, round: () => Promise<void>): Promise<void> {
    const { signal } = this.#stop
    const ms = Math.max(ROUND_MS_MIN, (seconds * 1000) / speed)
    while (!signal.aborted) {
      await round()
      await sleep(ms, undefined, { signal }).catch(() => {})
    }
  }

  async #poll(): Promise<void> {
    const values = await this.#read()
    if (this.#stop.signal.aborted || this.#isPaused) return
    const activity = {
      isActive: values.some(({ value, trigger }) => value !== undefined && value > trigger.activationThreshold),
      isError: values.some(({ value }) => value === undefined),
    }
    const replicas = this.#keda.decide(performance.now(), this.#target.wanted, activity)
    if (replicas !== undefined && replicas !== this.#target.wanted)
      this.#target.scale(replicas, activity.isActive ? 'active again' : 'idle past the cooldown')
  }

  async #sync(): Promise<void> {
    if (!this.#keda.isHpaOn(this.#target.wanted)) return
    const values = await this.#read()
    const { wanted, present } = this.#target
    if (this.#stop.signal.aborted || this.#isPaused || !this.#keda.isHpaOn(wanted)) return
    const asked = values.flatMap(({ value, trigger }) =>
      value === undefined ? [] : [replicasFor(value, trigger.threshold, present)],
    )
    const nowMs = performance.now()
    // With a metric missing, the others may ask for more, not for less.
    const isKnown = asked.length === values.length || Math.max(...asked) > wanted
    const replicas = this.#hpa.decide(nowMs, wanted, isKnown ? Math.max(...asked) : undefined)
    if (replicas === wanted) return
    this.#hpa.changed(nowMs, wanted, replicas)
    this.#target.scale(replicas, values.map(({ trigger, value }) => `${trigger.name} ${value ?? '?'}`).join(', '))
  }

  async #read() {
    const values = await Promise.all(
      this.object.triggers.map(async trigger => {
        try {
          const value = await readTrigger(trigger, this.#hosts)
          return { trigger, value }
        } catch (error) {
          return { trigger, value: undefined, error: errorMessage(error) }
        }
      }),
    )
    for (const { trigger, value } of values) this.#values.set(trigger.name, value)
    this.#error = values.find(({ error }) => error !== undefined)?.error
    return values
  }
}
