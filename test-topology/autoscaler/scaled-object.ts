import { readFile } from 'node:fs/promises'
import { parseAllDocuments } from 'yaml'
import { PercolateError } from '../../src/base/errors.ts'

/** What of a KEDA ScaledObject decides about replicas (https://keda.sh/docs/2.16/reference/scaledobject-spec/). Durations are in seconds, as in the manifest. */
export interface ScaledObject {
  readonly name: string
  readonly target: { readonly kind: string; readonly name: string }
  readonly pollingInterval: number
  readonly cooldownPeriod: number
  readonly idleReplicaCount: number | undefined
  readonly minReplicaCount: number
  readonly maxReplicaCount: number
  readonly behavior: Behavior
  readonly triggers: readonly Trigger[]
}

export type Trigger = PrometheusTrigger | JetStreamTrigger
export interface PrometheusTrigger {
  readonly type: 'prometheus'
  readonly name: string
  readonly serverAddress: string
  readonly query: string
  readonly threshold: number
  readonly activationThreshold: number
  readonly ignoreNullValues: boolean
}
export interface JetStreamTrigger {
  readonly type: 'nats-jetstream'
  readonly name: string
  readonly endpoint: string
  readonly account: string
  readonly stream: string
  readonly consumer: string
  readonly threshold: number
  readonly activationThreshold: number
}

/** `autoscaling/v2` HorizontalPodAutoscalerBehavior, with the defaults of Kubernetes filled in. */
export interface Behavior {
  readonly scaleUp: ScalingRules
  readonly scaleDown: ScalingRules
}
export interface ScalingRules {
  readonly stabilizationWindowSeconds: number
  readonly selectPolicy: 'Max' | 'Min' | 'Disabled'
  readonly policies: readonly {
    readonly type: 'Pods' | 'Percent'
    readonly value: number
    readonly periodSeconds: number
  }[]
}

type Raw = Record<string, unknown>

const KEDA_POLLING_S = 30
const KEDA_COOLDOWN_S = 300
const KEDA_REPLICAS_MAX = 100
const DEFAULT_BEHAVIOR: Behavior = {
  scaleUp: {
    stabilizationWindowSeconds: 0,
    selectPolicy: 'Max',
    policies: [
      { type: 'Percent', value: 100, periodSeconds: 15 },
      { type: 'Pods', value: 4, periodSeconds: 15 },
    ],
  },
  scaleDown: {
    stabilizationWindowSeconds: 300,
    selectPolicy: 'Max',
    policies: [{ type: 'Percent', value: 100, periodSeconds: 15 }],
  },
}

/** A change to a manifest by its path, such as `percolate-node.triggers.0.metadata.threshold=2` below `spec`. */
export interface Override {
  readonly name: string
  readonly path: readonly string[]
  readonly value: string | number
}

export function parseOverride(text: string): Override {
  const match = /^([a-z][\w-]*)\.([\w.]+)=(.+)$/.exec(text)
  if (!match)
    throw new PercolateError(
      'INVALID_ARGUMENT',
      `--set must be NAME.PATH=VALUE, such as percolate-node.minReplicaCount=1, not ${JSON.stringify(text)}.`,
      { field: '--set' },
    )
  const [, name, path, value] = match
  return { name: name!, path: path!.split('.'), value: /^-?\d+$/.test(value!) ? Number(value) : value! }
}

/** The ScaledObjects of a manifest file, after `overrides`. Throws INVALID_ARGUMENT for what this autoscaler does not do: nothing is passed over in silence. */
export async function readScaledObjects(
  path: string,
  overrides: readonly Override[] = [],
): Promise<readonly ScaledObject[]> {
  const objects: Raw[] = parseAllDocuments(await readFile(path, 'utf8')).flatMap(document => {
    if (document.errors.length > 0) throw invalid(path, document.errors[0]!.message)
    const value = document.toJS() as Raw | null
    return value?.kind === 'ScaledObject' ? [value] : []
  })
  for (const override of overrides) {
    const object = objects.find(({ metadata }) => (metadata as Raw).name === override.name)
    if (!object) throw invalid(override.name, `there is no such ScaledObject in ${path}`)
    set(object.spec as Raw, override)
  }
  if (objects.length === 0) throw invalid(path, 'it has no ScaledObject')
  return objects.map(parse)
}

function set(spec: Raw, { name, path, value }: Override): void {
  let at: Raw = spec
  for (const key of path.slice(0, -1)) {
    if (typeof at[key] !== 'object' || at[key] === null) throw invalid(name, `spec.${path.join('.')} is not there`)
    at = at[key] as Raw
  }
  at[path.at(-1)!] = value
}

const SPEC_KEYS = new Set([
  'scaleTargetRef',
  'pollingInterval',
  'cooldownPeriod',
  'idleReplicaCount',
  'minReplicaCount',
  'maxReplicaCount',
  'advanced',
  'triggers',
])

function parse(object: Raw): ScaledObject {
  const name = String((object.metadata as Raw).name)
  const spec = object.spec as Raw
  for (const key of Object.keys(spec)) if (!SPEC_KEYS.has(key)) throw invalid(name, `spec.${key} is not supported here`)
  const target = spec.scaleTargetRef as Raw
  const advanced = (spec.advanced ?? {}) as { horizontalPodAutoscalerConfig?: { behavior?: Partial<Behavior> } }
  const given = advanced.horizontalPodAutoscalerConfig?.behavior ?? {}
  const rules = (side: keyof Behavior): ScalingRules => ({ ...DEFAULT_BEHAVIOR[side], ...given[side] })
  const whole = (key: string, fallback: number) => number(name, `spec.${key}`, spec[key] ?? fallback)
  const idle = spec.idleReplicaCount === undefined ? undefined : whole('idleReplicaCount', 0)
  const parsed: ScaledObject = {
    name,
    target: { kind: String(target.kind ?? 'Deployment'), name: String(target.name) },
    pollingInterval: whole('pollingInterval', KEDA_POLLING_S),
    cooldownPeriod: whole('cooldownPeriod', KEDA_COOLDOWN_S),
    idleReplicaCount: idle,
    minReplicaCount: whole('minReplicaCount', 0),
    maxReplicaCount: whole('maxReplicaCount', KEDA_REPLICAS_MAX),
    behavior: { scaleUp: rules('scaleUp'), scaleDown: rules('scaleDown') },
    triggers: (spec.triggers as Raw[]).map((trigger, n) => parseTrigger(name, `spec.triggers.${n}`, trigger)),
  }
  if (idle !== undefined && idle >= parsed.minReplicaCount)
    throw invalid(name, 'spec.idleReplicaCount must be less than spec.minReplicaCount')
  if (parsed.minReplicaCount > parsed.maxReplicaCount)
    throw invalid(name, 'spec.minReplicaCount must not be more than spec.maxReplicaCount')
  return parsed
}

function parseTrigger(name: string, path: string, trigger: Raw): Trigger {
  const metadata = trigger.metadata as Record<string, string>
  const metric = trigger.metricType ?? 'AverageValue'
  if (metric !== 'AverageValue') throw invalid(name, `${path}.metricType must be AverageValue, not ${String(metric)}`)
  const text = (key: string): string => {
    if (typeof metadata[key] !== 'string' || metadata[key] === '')
      throw invalid(name, `${path}.metadata.${key} is missing`)
    return metadata[key]
  }
  const numeric = (key: string, fallback?: string) => number(name, `${path}.metadata.${key}`, metadata[key] ?? fallback)
  const label = String(trigger.name ?? trigger.type)
  if (trigger.type === 'prometheus')
    return {
      type: 'prometheus',
      name: label,
      serverAddress: text('serverAddress'),
      query: text('query'),
      threshold: numeric('threshold'),
      activationThreshold: numeric('activationThreshold', '0'),
      ignoreNullValues: (metadata.ignoreNullValues ?? 'true') === 'true',
    }
  if (trigger.type === 'nats-jetstream')
    return {
      type: 'nats-jetstream',
      name: label,
      endpoint: text('natsServerMonitoringEndpoint'),
      account: text('account'),
      stream: text('stream'),
      consumer: text('consumer'),
      threshold: numeric('lagThreshold'),
      activationThreshold: numeric('activationLagThreshold', '0'),
    }
  throw invalid(name, `${path}.type must be prometheus or nats-jetstream, not ${String(trigger.type)}`)
}

function number(name: string, path: string, value: unknown): number {
  const parsed = Number(value)
  if (value === undefined || value === '' || !Number.isFinite(parsed) || parsed < 0)
    throw invalid(name, `${path} must be a number, not ${JSON.stringify(value)}`)
  return parsed
}

const invalid = (name: string, reason: string) =>
  new PercolateError('INVALID_ARGUMENT', `${name}: ${reason}.`, { field: 'ScaledObject' })
