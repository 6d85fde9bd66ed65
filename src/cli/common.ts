import { type Command, Option } from 'commander'
import { PercolateClient } from '../../client/client.ts'
import { PercolateClientError } from '../../client/errors.ts'
import { PercolateError } from '../base/errors.ts'
import { createLogger, type Logger } from '../base/logger.ts'
import { clientDefaults, environment } from '../config/environment.ts'
import { loadConfig, unknownVariables } from '../config/load.ts'
import { type Config, flagOf, type Role, type Setting, type SettingName, settings } from '../config/settings.ts'
import { fail, readableLog } from './output.ts'

/** Flags of a role, from the settings table. Secrets have none: `ps` would show them. */
export function addSettingFlags(command: Command, role: Role): Command {
  for (const [, setting] of settingsOf(role)) {
    if (setting.secret) continue
    const value =
      setting.type === 'integer'
        ? '<number>'
        : setting.type === 'choice'
          ? `<${setting.choices.join('|')}>`
          : `<${setting.type}>`
    const shown = setting.default === undefined ? '' : ` (default: ${setting.default})`
    const option = new Option(`${flagOf(setting)} ${value}`, `${setting.doc}${shown}`)
    command.addOption(option.helpGroup(groupOf(setting)))
  }
  return command
}

/** Headings of the help, with how the settings under them begin. */
const GROUPS: readonly (readonly [heading: string, names: RegExp])[] = [
  ['Embedding and chat:', /^(EMBEDDING|CHAT)_/],
  ['Uploads:', /^UPLOAD/],
  ['Jobs and parsing:', /^(JOB|PARSE|CHUNK)/],
  ['NATS and S3:', /^(NATS|S3)_/],
  ['Where it listens, and what it keeps:', /^(DATA_DIR|HOST|\w*_PORT|LOG_LEVEL|NODE_ID|MODE|DISK_|DRAIN_MS)/],
  ['Memory and limits:', /(_BYTES(_MAX)?|^OPEN_TENANTS_MAX|^TENANT_IDLE_MS|^HELD_\w+|^CHANGES_MAX|^REQUEST_READ_MS)$/],
]

const groupOf = ({ env }: Setting): string =>
  GROUPS.find(([, names]) => names.test(env.replace('PERCOLATE_', '')))?.[0] ?? 'Cluster and timing:'

const settingsOf = (role: Role): [SettingName, Setting][] =>
  (Object.entries(settings) as [SettingName, Setting][]).filter(([, { roles }]) => roles.includes(role))

export function configOf(role: Role, options: Record<string, unknown>): Config {
  const flags: Partial<Record<SettingName, string>> = {}
  for (const [name, setting] of settingsOf(role)) {
    const attribute = flagOf(setting)
      .slice(2)
      .replace(/-([a-z0-9])/g, (_, letter: string) => letter.toUpperCase())
    if (typeof options[attribute] === 'string') flags[name] = options[attribute]
  }
  return loadConfig({ role, flags })
}

export function loggerOf(config: Config, role: Role): Logger {
  // A person at a terminal gets lines to read; everybody else JSON.
  const destination = role === 'up' && process.stderr.isTTY ? { destination: readableLog() } : {}
  const logger = createLogger({ level: config.logLevel, role, ...destination })
  for (const name of unknownVariables(environment()))
    logger.warn({ variable: name }, 'not a setting of Percolate, ignored; docs/config.md lists them')
  return logger
}

/** Runs until SIGTERM or Ctrl-C, then stops; a second signal ends at once, and so does a stop that takes `stopMsMax`: a drain has bounds of its own, this one is for what none of them foresaw. */
export async function runUntilSignal(
  stop: () => Promise<void>,
  { stopMsMax = settings.stopMs.default, onStopping = () => {} }: { stopMsMax?: number; onStopping?: () => void } = {},
): Promise<never> {
  await new Promise<void>(resolve => {
    let signals = 0
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
      process.on(signal, () => {
        if (++signals > 1) process.exit(1)
        resolve()
      })
    }
  })
  onStopping()
  setTimeout(() => {
    process.stderr.write(
      `percolate: stopping took longer than ${stopMsMax / 1000} s (PERCOLATE_STOP_MS) and ends now; what was acknowledged is on disk.\n`,
    )
    // Not process.exit: that would wait for threads that are stuck in a system call.
    process.kill(process.pid, 'SIGKILL')
  }, stopMsMax).unref()
  await stop()
  process.exit(process.exitCode ?? 0)
}

export interface ClientFlags {
  readonly url: string
  readonly gateway: string
  readonly tenant: string
  readonly json?: boolean
}

/** Flags of the commands that talk to a running Percolate. */
export function addClientFlags(command: Command): Command {
  const { tenant, url, gateway } = clientDefaults()
  return command
    .option('-t, --tenant <id>', 'tenant', tenant)
    .option('--url <url>', 'database node or router', url)
    .option('--gateway <url>', 'upload gateway', gateway)
    .option('--json', 'print JSON, for programs')
}

export const clientOf = ({ url, tenant }: ClientFlags): PercolateClient =>
  new PercolateClient({ url, tenant, attemptsMax: 2 })

/** A request to the gateway, which is not a database node. */
export const gatewayOf = ({ gateway, tenant }: ClientFlags): PercolateClient =>
  new PercolateClient({ url: gateway, tenant, attemptsMax: 2 })

/** Turns what went wrong into one sentence and an exit code. */
export function guarded<A extends unknown[]>(action: (...args: A) => Promise<void>): (...args: A) => Promise<void> {
  return async (...args) => {
    try {
      await action(...args)
    } catch (error) {
      if (error instanceof PercolateError) fail(withFlags(error.message))
      if (error instanceof PercolateClientError) fail(withAddress(error))
      throw error
    }
  }
}

/** Where a setting is named by its variable only, its flag is named too: who typed a flag looks for that. */
export function withFlags(message: string): string {
  return message.replace(/PERCOLATE_[A-Z0-9_]+/g, variable => {
    const setting = Object.values(settings).find(({ env }) => env === variable) as Setting | undefined
    return setting && !setting.secret ? `${flagOf(setting)} (${variable})` : variable
  })
}

/** Whoever does not answer, or is not what was expected, was found by `--url` or `--gateway`. */
function withAddress({ code, message }: PercolateClientError): string {
  if (code === 'UNREACHABLE' || code === 'ROUTE_NOT_FOUND' || code === 'UNKNOWN')
    return `${message} The flag --url (PERCOLATE_URL) says where the node is, --gateway (PERCOLATE_GATEWAY_URL) where uploads go.`
  return message
}

/** Says when nothing was found because the tenant holds nothing at all: most often its name is misspelt. Sets the exit code. */
export async function hintIfUnknown(flags: ClientFlags): Promise<void> {
  const client = clientOf(flags)
  const listings = await Promise.all([
    client.listResources({ limit: 1 }),
    client.findEntities({ limit: 1 }),
    client.listMoments({ limit: 1 }),
  ])
  if (listings.some(({ results }) => results.length > 0)) return
  process.stderr.write(`percolate: the tenant "${flags.tenant}" holds nothing; is that its name (-t, --tenant)?\n`)
  process.exitCode = 1
}
