import { hostname } from 'node:os'
import type { Config } from './settings.ts'

/** Host under which others reach this process, as it stands in a URL. */
export function advertisedHost(config: Pick<Config, 'advertiseHost' | 'host'>): string {
  const host = config.advertiseHost ?? (config.host === '0.0.0.0' || config.host === '::' ? hostname() : config.host)
  return host.includes(':') && !host.startsWith('[') ? `[${host}]` : host
}
