import { resolve } from 'node:path'
import { PercolateError } from '../base/errors.ts'
import { type Config, flagOf, type Role, type Setting, type SettingName, settings } from './settings.ts'

export interface LoadOptions {
  readonly role: Role
  /** Values from flags, by setting; they win over the environment. */
  readonly flags?: Partial<Record<SettingName, string>>
  readonly env?: Readonly<Record<string, string | undefined>>
}

/** Reads every setting of the role, and refuses with one CONFIG_INVALID that lists everything that is wrong. */
export function loadConfig(options: LoadOptions): Config {
  const env = options.env ?? process.env
  const problems: string[] = []
  const config: Record<string, string | number | undefined> = {}
  for (const [name, setting] of Object.entries(settings) as [SettingName, Setting][]) {
    const flag = options.flags?.[name]
    const text = flag ?? (env[setting.env] === '' ? undefined : env[setting.env])
    const source = flag === undefined ? setting.env : flagOf(setting)
    try {
      config[name] = text === undefined ? withDefault(setting) : parseSetting(setting, text)
    } catch (error) {
      problems.push(`${source} ${(error as Error).message}`)
    }
  }
  problems.push(...together(config, options.role, env))
  if (problems.length > 0)
    throw new PercolateError('CONFIG_INVALID', `Settings that need a correction:\n  - ${problems.join('\n  - ')}`)
  return Object.freeze(config) as Config
}

const withDefault = (setting: Setting): string | number | undefined =>
  setting.type === 'path' && setting.default !== undefined ? resolve(setting.default) : setting.default

function parseSetting(setting: Setting, text: string): string | number {
  const shown = setting.secret ? 'its value' : JSON.stringify(text)
  switch (setting.type) {
    case 'integer': {
      const value = /^-?\d+$/.test(text.trim()) ? Number(text) : Number.NaN
      if (!Number.isSafeInteger(value) || value < setting.min || value > setting.max) {
        throw new Error(
          `must be a whole number from ${setting.min} to ${setting.max}${setting.unit ? ` (${setting.unit})` : ''}, not ${shown}.`,
        )
      }
      return value
    }
    case 'choice':
      if (!setting.choices.includes(text))
        throw new Error(`must be one of ${setting.choices.join(', ')}, not ${shown}.`)
      return text
    case 'path':
      return resolve(text)
    case 'url':
      if (!/^https?:\/\//.test(text) || !URL.canParse(text))
        throw new Error(`must be a URL that starts with http:// or https://, not ${shown}.`)
      return text
    default:
      if (setting.pattern !== undefined && !new RegExp(setting.pattern).test(text))
        throw new Error(`must match ${setting.pattern}, not ${shown}.`)
      return text
  }
}

/** Variables that the command line reads beside the settings. */
const CLIENT_VARIABLES = ['PERCOLATE_URL', 'PERCOLATE_GATEWAY_URL', 'PERCOLATE_TENANT']

/** Variables that look like ours and are not: misspelt, or put there by Kubernetes for a service of that name. Worth a warning. */
export function unknownVariables(env: Readonly<Record<string, string | undefined>>): string[] {
  const known = new Set<string>([...Object.values(settings).map(setting => setting.env), ...CLIENT_VARIABLES])
  return Object.keys(env).filter(name => name.startsWith('PERCOLATE_') && !known.has(name))
}

function together(
  config: Readonly<Record<string, unknown>>,
  role: Role,
  env: Readonly<Record<string, string | undefined>>,
): string[] {
  const problems: string[] = []
  if (config.s3Endpoint !== undefined && (config.s3AccessKey === undefined || config.s3SecretKey === undefined)) {
    problems.push('PERCOLATE_S3_ENDPOINT needs PERCOLATE_S3_ACCESS_KEY and PERCOLATE_S3_SECRET_KEY.')
  }
  if (config.embeddingUrl !== undefined && config.embeddingModel === undefined)
    problems.push('PERCOLATE_EMBEDDING_URL needs PERCOLATE_EMBEDDING_MODEL.')
  if (config.chatUrl !== undefined && config.chatModel === undefined)
    problems.push('PERCOLATE_CHAT_URL needs PERCOLATE_CHAT_MODEL.')
  if (
    role === 'node' &&
    config.mode === 'production' &&
    config.zone === settings.zone.default &&
    env[settings.zone.env] === ''
  )
    problems.push(
      `${settings.zone.env} is set and empty, so that copies would not be spread over zones. Kubernetes copies the zone of a machine to its pods from 1.35 on; before, or where machines have no zone, set it by hand.`,
    )
  if (role === 'worker' || role === 'gateway') {
    if (config.natsUrl === undefined) problems.push(`PERCOLATE_NATS_URL is needed by the role ${role}.`)
    if (config.s3Endpoint === undefined) problems.push(`PERCOLATE_S3_ENDPOINT is needed by the role ${role}.`)
  }
  if ((role === 'node' && config.natsUrl !== undefined) || role === 'controller') {
    if (config.clusterSecret === undefined)
      problems.push(`PERCOLATE_CLUSTER_SECRET is needed by the role ${role}: nodes know one another by it.`)
  }
  if (role === 'controller' && config.natsUrl === undefined)
    problems.push('PERCOLATE_NATS_URL is needed by the role controller.')
  if (Number(config.leaseMs) < 3 * Number(config.heartbeatMs))
    problems.push('PERCOLATE_LEASE_MS must be at least three times PERCOLATE_HEARTBEAT_MS.')
  const ports = (['httpPort', 'grpcPort', 'gatewayPort', 'natsPort', 's3Port'] as const).map(
    name => [settings[name].env, config[name]] as const,
  )
  if (role === 'up') {
    for (const [n, [env, port]] of ports.entries()) {
      const twin = ports.slice(n + 1).find(([, other]) => other === port && port !== 0)
      if (twin) problems.push(`${env} and ${twin[0]} are the same port, ${port}.`)
    }
  }
  return problems
}

/** Where a pod reaches the API server, as Kubernetes tells every container; undefined outside of a pod. */
export function kubernetesServiceUrl(env: NodeJS.ProcessEnv = process.env): string | undefined {
  const { KUBERNETES_SERVICE_HOST: host, KUBERNETES_SERVICE_PORT: port = '443' } = env
  return host && `https://${host.includes(':') ? `[${host}]` : host}:${port}`
}
