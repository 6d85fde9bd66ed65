import type { Behavior, ScalingRules } from './scaled-object.ts'

/** How far the measured ratio may be from one before anything changes (kube-controller-manager's default). */
const TOLERANCE = 0.1

export interface HpaOptions {
  readonly min: number
  readonly max: number
  readonly behavior: Behavior
  /** Divides every window and period of the behavior. */
  readonly speed: number
}

interface Change {
  readonly atMs: number
  readonly by: number
}

/**
 * The replicas that metrics of type AverageValue ask for: the sum over the target, rounded up, unless the present number is within the tolerance
 * (https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/#algorithm-details; `GetExternalPerPodMetricReplicas`).
 */
export function replicasFor(total: number, threshold: number, present: number): number {
  // Quantities are whole thousandths: KEDA cuts the value, the manifest's threshold is exact.
  const [value, target] = [Math.trunc(total * 1000), Math.round(threshold * 1000)]
  if (present > 0 && Math.abs(1 - value / (target * present)) <= TOLERANCE) return present
  return Math.ceil(value / target)
}

/**
 * A HorizontalPodAutoscaler with behavior: stabilization windows over its own recommendations, then policies over what was changed within their periods
 * (`stabilizeRecommendationWithBehaviors` and `convertDesiredReplicasWithBehaviorRate` of kube-controller-manager). Times are in milliseconds of any steady clock.
 */
export class Hpa {
  readonly #options: HpaOptions
  #recommendations: { readonly atMs: number; readonly replicas: number }[] = []
  #ups: Change[] = []
  #downs: Change[] = []

  constructor(options: HpaOptions) {
    this.#options = options
  }

  /** How many there should be now; `asked` is the greatest number that a metric asks for, undefined when none could be read. */
  decide(nowMs: number, current: number, asked: number | undefined): number {
    const { min, max } = this.#options
    if (current > max) return max
    if (current < min) return min
    if (asked === undefined) return current
    if (this.#recommendations.length === 0) this.#recommendations.push({ atMs: nowMs, replicas: current })
    const stable = this.#stabilized(nowMs, current, asked)
    return stable > current
      ? Math.min(stable, Math.max(current, Math.min(max, this.#upLimit(nowMs, current))))
      : stable < current
        ? Math.max(stable, Math.min(current, Math.max(min, this.#downLimit(nowMs, current))))
        : current
  }

  /** What was decided, carried out. */
  changed(nowMs: number, from: number, to: number): void {
    if (to > from) this.#ups.push({ atMs: nowMs, by: to - from })
    if (to < from) this.#downs.push({ atMs: nowMs, by: from - to })
  }

  #stabilized(nowMs: number, current: number, asked: number): number {
    const { scaleUp, scaleDown } = this.#options.behavior
    const longest = Math.max(scaleUp.stabilizationWindowSeconds, scaleDown.stabilizationWindowSeconds)
    this.#recommendations = this.#recommendations.filter(({ atMs }) => this.#isWithin(nowMs, atMs, longest))
    const within = (seconds: number) =>
      this.#recommendations.filter(({ atMs }) => this.#isWithin(nowMs, atMs, seconds)).map(({ replicas }) => replicas)
    const up = Math.min(asked, ...within(scaleUp.stabilizationWindowSeconds))
    const down = Math.max(asked, ...within(scaleDown.stabilizationWindowSeconds))
    this.#recommendations.push({ atMs: nowMs, replicas: asked })
    return Math.min(Math.max(current, up), down)
  }

  #upLimit(nowMs: number, current: number): number {
    return this.#limit(nowMs, current, this.#options.behavior.scaleUp, (start, { type, value }) =>
      type === 'Pods' ? start + value : Math.ceil(start * (1 + value / 100)),
    )
  }

  #downLimit(nowMs: number, current: number): number {
    return this.#limit(nowMs, current, this.#options.behavior.scaleDown, (start, { type, value }) =>
      type === 'Pods' ? start - value : Math.floor(start * (1 - value / 100)),
    )
  }

  #limit(
    nowMs: number,
    current: number,
    rules: ScalingRules,
    proposed: (start: number, policy: ScalingRules['policies'][number]) => number,
  ): number {
    if (rules.selectPolicy === 'Disabled' || rules.policies.length === 0) return current
    const longest = Math.max(...rules.policies.map(({ periodSeconds }) => periodSeconds))
    const sum = (changes: readonly Change[], seconds: number) =>
      changes.filter(({ atMs }) => this.#isWithin(nowMs, atMs, seconds)).reduce((total, { by }) => total + by, 0)
    const isDown = rules === this.#options.behavior.scaleDown
    if (isDown) this.#downs = this.#downs.filter(({ atMs }) => this.#isWithin(nowMs, atMs, longest))
    else this.#ups = this.#ups.filter(({ atMs }) => this.#isWithin(nowMs, atMs, longest))
    const limits = rules.policies.map(policy => {
      const start = current - sum(this.#ups, policy.periodSeconds) + sum(this.#downs, policy.periodSeconds)
      return proposed(start, policy)
    })
    // Max: the policy that allows the greatest change.
    const wantsMost = (rules.selectPolicy === 'Max') !== isDown
    return wantsMost ? Math.max(...limits) : Math.min(...limits)
  }

  #isWithin(nowMs: number, atMs: number, seconds: number): boolean {
    return nowMs - atMs < (seconds * 1000) / this.#options.speed
  }
}
