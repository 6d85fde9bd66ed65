import { type Command, Option } from 'commander'
import { PercolateClient } from '../../client/client.ts'
import { PercolateClientError } from '../../client/errors.ts'
import { PercolateError } from '../base/errors.ts'
import { createLogger, type Logger } from '../base/logger.ts'
import { loadConfig, unknownVariables } from '../config/load.ts'
import { type Config, flagOf, type Role, type Setting, type SettingName, settings } from '../config/settings.ts'
import { fail } from './output.ts'

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
    command.addOption(new Option(`${flagOf(setting)} ${value}`, `${setting.doc}${shown}`))
  }
  return command
}

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
  const logger = createLogger({ level: config.logLevel, role })
  for (const name of unknownVariables(process.env))
    logger.warn({ variable: name }, 'not a setting of Percolate, ignored; docs/config.md lists them')
  return logger
}

/** A drain has bounds of its own; this is for what none of them foresaw. */
const STOP_MS_MAX = 120_000

/** Runs until SIGTERM or Ctrl-C, then stops; a second signal ends at once. */
export async function runUntilSignal(stop: () => Promise<void>, onStopping: () => void = () => {}): Promise<never> {
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
      `percolate: stopping took longer than ${STOP_MS_MAX / 1000} s and ends now; what was acknowledged is on disk.\n`,
    )
    // Not process.exit: that would wait for threads that are stuck in a system call.
    process.kill(process.pid, 'SIGKILL')
  }, STOP_MS_MAX).unref()
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
  return command
    .option('-t, --tenant <id>', 'tenant', process.env.PERCOLATE_TENANT ?? 'default')
    .option('--url <url>', 'database node or router', process.env.PERCOLATE_URL ?? 'http://127.0.0.1:8080')
    .option('--gateway <url>', 'upload gateway', process.env.PERCOLATE_GATEWAY_URL ?? 'http://127.0.0.1:8081')
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
      if (error instanceof PercolateError || error instanceof PercolateClientError) fail(error.message)
      throw error
    }
  }
}
