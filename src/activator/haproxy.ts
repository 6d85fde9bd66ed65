import { connect } from 'node:net'
import { PercolateError } from '../base/errors.ts'
import type { Destination, RouterPort } from './endpoints.ts'

const ANSWER_MS_MAX = 2000

/**
 * HAProxy's server lists, by its runtime API on an admin socket (https://docs.haproxy.org/2.6/management.html#9.3). The backends of a tier are `http_<tier>` and `grpc_<tier>`; a server
 * has the name of its destination, and those that are not wanted are in maintenance.
 */
export class HaproxyRouter implements RouterPort {
  readonly #socketPath: string

  constructor(socketPath: string) {
    this.#socketPath = socketPath
  }

  async write(tier: string, destinations: readonly Destination[]): Promise<void> {
    const wanted = new Set(destinations.map(({ name }) => name))
    for (const backend of [`http_${tier}`, `grpc_${tier}`]) {
      const servers = parseServers(await this.#ask(`show servers state ${backend}`))
      const missing = [...wanted].filter(name => !servers.has(name))
      if (missing.length > 0)
        throw new PercolateError('INTERNAL', `HAProxy's backend ${backend} has no server ${missing.join(', ')}.`)
      // First those that take over, so that there is always one.
      for (const [name, isReady] of servers)
        if (wanted.has(name) && !isReady) await this.#ask(`set server ${backend}/${name} state ready`)
      for (const [name, isReady] of servers)
        if (!wanted.has(name) && isReady) await this.#ask(`set server ${backend}/${name} state maint`)
    }
  }

  /** There is one controller where HAProxy routes: nobody would take the place over. */
  async has(): Promise<boolean> {
    return false
  }

  #ask(command: string): Promise<string> {
    return new Promise((resolve, reject) => {
      const socket = connect(this.#socketPath)
      let answer = ''
      socket.setTimeout(ANSWER_MS_MAX, () => socket.destroy(new Error('HAProxy does not answer')))
      socket.setEncoding('utf8').on('data', (text: string) => {
        answer += text
      })
      socket.once('error', reject)
      socket.once('end', () => resolve(answer))
      socket.write(`${command}\n`)
    })
  }
}

/** Bit 0 of `srv_admin_state`: forced into maintenance (https://docs.haproxy.org/2.6/management.html#show%20servers%20state). */
const FORCED_MAINTENANCE = 1

/** The servers of a backend, and whether each is out of maintenance. */
function parseServers(text: string): Map<string, boolean> {
  const lines = text.split('\n')
  const columns = lines
    .find(line => line.startsWith('# '))
    ?.slice(2)
    .split(' ')
  if (!columns) throw new PercolateError('INTERNAL', `HAProxy answers: ${text.trim().slice(0, 200)}`)
  const [nameAt, adminAt] = [columns.indexOf('srv_name'), columns.indexOf('srv_admin_state')]
  return new Map(
    lines
      .filter(line => /^\d+ /.test(line))
      .map(line => line.split(' '))
      .map(fields => [fields[nameAt]!, (Number(fields[adminAt]) & FORCED_MAINTENANCE) === 0]),
  )
}
