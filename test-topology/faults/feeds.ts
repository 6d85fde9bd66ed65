import { request } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { createParser } from 'eventsource-parser'
import { GrpcAsker } from '../ask-grpc.ts'
import type { Recorder } from './recorder.ts'

interface FeedNode {
  readonly name: string
  readonly url: string
  readonly grpc: string
}

interface Change {
  readonly kind: string
  readonly id: string
  readonly clock: string
}

const HEARTBEAT_MS = 1000
/** Nothing has come for so long, not even a heartbeat: the connection is gone. */
const SILENT_MS_MAX = 8000
const AGAIN_MS = 300
const SHOWN = 3

/** The feed ended, for a reason that tells where to go on. */
class Expired extends Error {
  readonly cursor: string

  constructor(cursor: string) {
    super('the feed does not reach back that far')
    this.cursor = cursor
  }
}

export interface Missing {
  readonly missing: readonly string[]
  /** How many there are that should have come. */
  readonly expected: number
}

/**
 * Which acknowledged changes of a tenant are not among what a feed has `seen` (by `kind/id`, the latest clock). Of changes of one record only the last must come: what is brought up to date record by record has no
 * others. What was called before the feed said that it must be read anew need not come, nor what need not have survived.
 */
export function missingChanges(
  recorder: Pick<Recorder, 'history' | 'resources' | 'wasLosable'>,
  tenant: string,
  seen: ReadonlyMap<string, string>,
  expiredAtMs: number,
): Missing {
  const expected = new Map<string, string>()
  const expect = (name: string, acked: { clock: string; reached: string; node: string }, calledAtMs: number) => {
    if (calledAtMs <= expiredAtMs || recorder.wasLosable(tenant, acked, calledAtMs)) return
    if ((expected.get(name) ?? '') < acked.clock) expected.set(name, acked.clock)
  }
  for (const write of recorder.history.writes)
    if (write.tenant === tenant && write.acked) expect(`entity/${write.entity}`, write.acked, write.calledAtMs ?? 0)
  for (const write of recorder.resources)
    if (write.tenant === tenant) expect(`resource/${write.id}`, write, write.calledAtMs)
  const missing = [...expected].filter(([name, clock]) => (seen.get(name) ?? '') < clock).map(([name]) => name)
  return { missing, expected: expected.size }
}

/** One follower of a tenant's changes for the whole run: it comes back with its cursor, to another node each time, whatever happens. */
export class Feed {
  readonly name: string
  readonly tenant: string
  /** By `kind/id`, the latest clock that came. */
  readonly #seen = new Map<string, string>()
  readonly #nodes: readonly FeedNode[]
  readonly #isGrpc: boolean
  readonly #stop = new AbortController()
  readonly #running: Promise<void>
  #cursor = 'earliest'
  /** When it was told last that it must read anew: what was written before was not promised to come. */
  #expiredAtMs = Number.NEGATIVE_INFINITY
  events = 0
  expiries = 0
  reconnects = 0

  constructor(tenant: string, nodes: readonly FeedNode[], first: number, isGrpc: boolean) {
    this.tenant = tenant
    this.name = `the ${isGrpc ? 'gRPC' : 'SSE'} feed of ${tenant}`
    this.#nodes = nodes
    this.#isGrpc = isGrpc
    this.#running = this.#run(first)
  }

  async stop(): Promise<void> {
    this.#stop.abort()
    await this.#running
  }

  /** What was acknowledged and should have come, but has not. */
  missing(recorder: Recorder): Missing {
    return missingChanges(recorder, this.tenant, this.#seen, this.#expiredAtMs)
  }

  async #run(first: number): Promise<void> {
    for (let at = first; !this.#stop.signal.aborted; at++) {
      const node = this.#nodes[at % this.#nodes.length]!
      try {
        await (this.#isGrpc ? this.#overGrpc(node) : this.#overHttp(node))
      } catch (error) {
        if (error instanceof Expired) {
          this.expiries++
          this.#expiredAtMs = performance.now()
          this.#cursor = error.cursor
        }
      }
      this.reconnects++
      await sleep(AGAIN_MS, undefined, { signal: this.#stop.signal }).catch(() => {})
    }
  }

  #take(cursor: string, changes: readonly Change[]): void {
    for (const { kind, id, clock } of changes) {
      const name = `${kind}/${id}`
      if ((this.#seen.get(name) ?? '') < clock) this.#seen.set(name, clock)
    }
    this.events += changes.length
    if (cursor !== '') this.#cursor = cursor
  }

  #overHttp({ url }: FeedNode): Promise<void> {
    const headers = {
      'x-tenant-id': this.tenant,
      ...(this.#cursor === 'earliest' ? {} : { 'last-event-id': this.#cursor }),
    }
    return new Promise((resolve, reject) => {
      const outgoing = request(
        `${url}/api/v1/changes?heartbeat_ms=${HEARTBEAT_MS}&cursor=earliest`,
        { headers, agent: false, signal: this.#stop.signal },
        answer => {
          let text = ''
          const parser = createParser({
            onEvent: ({ event, id, data }) => {
              const body = JSON.parse(data) as { changes?: Change[]; code?: string; cursor?: string }
              if (event === 'error')
                reject(body.code === 'CHANGES_EXPIRED' ? new Expired(body.cursor!) : new Error(body.code))
              else this.#take(id ?? '', body.changes ?? [])
            },
          })
          answer.setEncoding('utf8').on('data', (part: string) => {
            if (answer.statusCode === 200) parser.feed(part)
            else text += part
          })
          answer.once('error', reject)
          answer.once('close', () => {
            if (answer.statusCode === 410) reject(new Expired((JSON.parse(text) as { cursor: string }).cursor))
            else resolve()
          })
        },
      )
      outgoing.setTimeout(SILENT_MS_MAX, () => outgoing.destroy(new Error('silent')))
      outgoing.once('error', reject)
      outgoing.end()
    })
  }

  async #overGrpc({ grpc }: FeedNode): Promise<void> {
    const asker = new GrpcAsker(grpc)
    const silent = new AbortController()
    const signal = AbortSignal.any([silent.signal, this.#stop.signal])
    let timer = setTimeout(() => silent.abort(), SILENT_MS_MAX)
    try {
      const message = { cursor: this.#cursor, heartbeat_ms: HEARTBEAT_MS }
      const events = asker.follow('FollowChanges', { 'x-tenant-id': this.tenant }, message, signal)
      for await (const event of events as AsyncIterable<{ cursor?: string; changes?: Change[] }>) {
        clearTimeout(timer)
        timer = setTimeout(() => silent.abort(), SILENT_MS_MAX)
        this.#take(event.cursor ?? '', event.changes ?? [])
      }
    } catch (error) {
      const { metadata } = error as { metadata?: { get(name: string): readonly unknown[] } }
      if (metadata?.get('percolate-code')[0] === 'CHANGES_EXPIRED')
        throw new Expired(String(metadata.get('percolate-cursor')[0]))
      throw error
    } finally {
      clearTimeout(timer)
      asker.close()
    }
  }
}

/** For people: what a feed has kept to itself. */
export function feedProblem(feed: Feed, recorder: Recorder): string | undefined {
  const { missing, expected } = feed.missing(recorder)
  if (missing.length === 0) return undefined
  return `${feed.name} never told of ${missing.length} of ${expected} changes, and did not say so: ${missing.slice(0, SHOWN).join(', ')}`
}
