import { spawnSync } from 'node:child_process'
import { mkdir, rm, statfs, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { findProgram, LocalCluster } from '../src/cluster/cluster.ts'
import { natsUrl } from '../src/cluster/configs.ts'
import { ask } from './ask.ts'
import { type ClusterHistory, checkHistory, type FinalState } from './history.ts'
import { TcpProxy } from './tcp-proxy.ts'

export interface FaultRunOptions {
  readonly dataDir: string
  readonly faults: number
  readonly kinds?: readonly FaultKind[]
  readonly tenants?: number
  readonly clients?: number
  readonly seed?: number
  readonly onProgress?: (text: string) => void
}

export const faultKinds = [
  'kill node',
  'kill nats-server',
  'stop node',
  'stop nats-server',
  'partition node from NATS',
  'cut off node from its peers',
  'cut off nodes from one another',
  'fill disk',
  'restart node with a clock 3 s off',
  'restart node with a clock 5 min off',
] as const
export type FaultKind = (typeof faultKinds)[number]

export interface FaultReport {
  readonly violations: string[]
  readonly faults: Readonly<Record<string, number>>
  /** Kinds that this machine does not allow: filling a disk takes a disk of one's own, and so the right to mount one. */
  readonly impossible: readonly string[]
  readonly attempted: number
  readonly acknowledged: Readonly<Record<string, number>>
  readonly deletes: number
  readonly conditional: number
  readonly bookmarkedReads: number
  readonly refused: Readonly<Record<string, number>>
  readonly seconds: number
}

/** Waiting windows short enough that a fault and its repair take seconds. */
export const FAST: Readonly<Record<string, string>> = {
  PERCOLATE_HEARTBEAT_MS: '300',
  PERCOLATE_LEASE_MS: '1500',
  PERCOLATE_HINT_GRACE_MS: '200',
  PERCOLATE_ANTI_ENTROPY_MS: '2000',
  PERCOLATE_MAINTENANCE_MS: '300',
  PERCOLATE_COPY_RETRY_MS: '200',
  PERCOLATE_CONTROLLER_ROUND_MS: '300',
  PERCOLATE_REPLACE_AFTER_MS: '60000',
  PERCOLATE_CONSUMER_IDLE_MS: '5000',
  PERCOLATE_MOVE_AFTER_REQUESTS: '200',
  PERCOLATE_MOVE_REST_MS: '5000',
  PERCOLATE_DURABILITY_TIMEOUT_MS: '2000',
  PERCOLATE_LOG_LEVEL: 'info',
}

const ENTITIES_PER_CLIENT = 4
const REST_MS_MAX = 90_000
const DISK_BYTES = 192 * 1024 * 1024
const DISK_RESERVE_BYTES = 32 * 1024 * 1024
/** What a filled disk has left: too little for anything. */
const DISK_LEFT_BYTES = 4 * 1024 * 1024

const portOf = (address: string): number => Number(/:(\d+)$/.exec(address)![1])

/** A real cluster under load and faults, with clients that remember everything; then everything heals, and the history is checked. */
export async function runFaults(options: FaultRunOptions): Promise<FaultReport> {
  const run = new FaultRun(options)
  try {
    return await run.go()
  } finally {
    await run.stop()
  }
}

class FaultRun {
  readonly #options: FaultRunOptions
  readonly #history: ClusterHistory = { writes: [], reads: [] }
  readonly #proxies = new Map<string, TcpProxy>()
  readonly #faults = new Map<string, number>()
  readonly #refused = new Map<string, number>()
  /** Folders of the nodes that are disks of their own. */
  readonly #disks: string[] = []
  #cluster: LocalCluster | undefined
  #isLoading = true
  #state: number

  constructor(options: FaultRunOptions) {
    this.#options = options
    this.#state = options.seed ?? 1
  }

  async go(): Promise<FaultReport> {
    const { faults, onProgress = () => {} } = this.#options
    const startedAt = Date.now()
    await this.#start()
    const wanted = this.#options.kinds ?? faultKinds
    const kinds = wanted.filter(kind => kind !== 'fill disk' || this.#disks.length > 0)
    const clients = Array.from({ length: this.#options.clients ?? 8 }, (_, n) => this.#client(n))
    await sleep(1500)
    for (let n = 0; n < faults; n++) {
      const kind = kinds[n % kinds.length]!
      this.#faults.set(kind, (this.#faults.get(kind) ?? 0) + 1)
      await this.#inflict(kind)
      onProgress(`fault ${n + 1} of ${faults}: ${kind}; ${this.#history.writes.length} writes`)
    }
    this.#isLoading = false
    await Promise.all(clients)
    const { final, problems } = await this.#rest()
    const { writes, reads } = this.#history
    const acked = writes.filter(write => write.acked !== undefined)
    const levels = new Map<string, number>()
    for (const { acked: done } of acked) levels.set(done!.reached, (levels.get(done!.reached) ?? 0) + 1)
    return {
      violations: [...problems, ...checkHistory(this.#history, final)],
      faults: Object.fromEntries(this.#faults),
      impossible: wanted.filter(kind => !kinds.includes(kind)),
      attempted: writes.length,
      acknowledged: Object.fromEntries(levels),
      deletes: acked.filter(({ action }) => action === 'delete').length,
      conditional: acked.filter(({ action }) => action === 'conditional').length,
      bookmarkedReads: reads.length,
      refused: Object.fromEntries(this.#refused),
      seconds: (Date.now() - startedAt) / 1000,
    }
  }

  async stop(): Promise<void> {
    this.#isLoading = false
    await this.#cluster?.stop()
    for (const proxy of this.#proxies.values()) await proxy.stop()
    for (const path of this.#disks) spawnSync('umount', [path])
  }

  async #start(): Promise<void> {
    const path = process.env.PATH ?? ''
    const plan = {
      dataDir: this.#options.dataDir,
      nodes: 3,
      nats: 3,
      zones: 3,
      workers: 0,
      replicas: 2,
      syncStreams: 'per-tenant',
      env: FAST,
      natsProgram: findProgram('nats-server', path, 'Run "npm run setup".'),
      haproxyProgram: findProgram('haproxy', path, 'Run "npm run setup".'),
      onExit: () => {},
    }
    // Once to learn the ports, once more with the proxies in between.
    const { addresses, secrets } = await LocalCluster.prepare(plan)
    const nats = addresses.nats.split(',').map(portOf)
    const through = async (name: string, port: number) => {
      this.#proxies.set(name, await new TcpProxy(port).start())
    }
    for (const { name, url, grpc } of addresses.nodes) {
      for (const [n, port] of nats.entries()) await through(`${name} nats-${n + 1}`, port)
      await through(`peers http ${name}`, portOf(url))
      await through(`peers grpc ${name}`, portOf(grpc))
      const folder = join(plan.dataDir, name)
      await mkdir(folder, { recursive: true })
      if (
        spawnSync('mount', ['-t', 'tmpfs', '-o', `size=${DISK_BYTES},mode=700`, 'percolate-test', folder]).status === 0
      )
        this.#disks.push(folder)
    }
    const portAt = (name: string) => String(this.#proxies.get(name)!.port)
    this.#cluster = await LocalCluster.prepare({
      ...plan,
      env: { ...FAST, PERCOLATE_DISK_RESERVE_BYTES: String(DISK_RESERVE_BYTES) },
      envOf: node => ({
        PERCOLATE_NATS_URL: nats
          .map((_, n) => natsUrl(Number(portAt(`${node} nats-${n + 1}`)), secrets.nats))
          .join(','),
        PERCOLATE_ADVERTISE_HTTP_PORT: portAt(`peers http ${node}`),
        PERCOLATE_ADVERTISE_GRPC_PORT: portAt(`peers grpc ${node}`),
      }),
    })
    await this.#cluster.start()
  }

  /** One client: it owns its entities, writes one after another, and reads with the bookmarks that it got. */
  async #client(n: number): Promise<void> {
    const tenant = `t${n % (this.#options.tenants ?? 4)}`
    const values = new Map<string, number>()
    let bookmark: { entity: string; value: number; text: string } | undefined
    let etag: { entity: string; tag: string } | undefined
    while (this.#isLoading) {
      const kind = this.#random()
      const entity = `c${n}-${Math.floor(this.#random() * ENTITIES_PER_CLIENT)}`
      try {
        if (kind < 0.2 && bookmark) await this.#read(tenant, bookmark)
        else {
          const value = (values.get(entity) ?? 0) + 1
          values.set(entity, value)
          const isConditional = kind > 0.9 && etag?.entity === entity
          const action = isConditional ? 'conditional' : kind > 0.8 ? 'delete' : 'put'
          const answer = await this.#write(tenant, entity, value, action, isConditional ? etag!.tag : undefined)
          if (answer) {
            if (answer.bookmark !== '' && action !== 'delete') bookmark = { entity, value, text: answer.bookmark }
            etag = answer.etag === '' ? undefined : { entity, tag: answer.etag }
          }
        }
      } catch {
        // Counted where it happened.
      }
      await sleep(2 + this.#random() * 8)
    }
  }

  async #write(
    tenant: string,
    entity: string,
    value: number,
    action: 'put' | 'delete' | 'conditional',
    ifMatch: string | undefined,
  ): Promise<{ bookmark: string; etag: string } | undefined> {
    const levels = ['local', 'stream', 'replicated'] as const
    const wanted = levels[Math.floor(this.#random() * 3)]!
    const event = { tenant, entity, action, value, acked: undefined as ClusterHistory['writes'][number]['acked'] }
    const at = this.#history.writes.push(event) - 1
    const headers: Record<string, string> = {
      'x-tenant-id': tenant,
      'x-percolate-durability': wanted,
      ...(ifMatch === undefined ? {} : { 'if-match': ifMatch }),
    }
    const url = `${this.#entry()}/api/v1/entities/${entity}`
    try {
      const answer =
        action === 'delete'
          ? await ask(url, 'DELETE', headers)
          : await ask(url, 'PUT', headers, { properties: { v: value } })
      const clock = String(answer.headers['x-percolate-clock'] ?? '')
      if (answer.status >= 200 && answer.status < 300 && clock !== '') {
        const reached = String(answer.headers['x-percolate-durability'])
        this.#history.writes[at] = {
          ...event,
          acked: { clock, reached, node: String(answer.headers['x-percolate-node']) },
        }
        return {
          bookmark: String(answer.headers['x-percolate-bookmark'] ?? ''),
          etag: String(answer.headers.etag ?? ''),
        }
      }
      this.#note(answer.body?.code ?? `status ${answer.status}`)
      // Refused for sure: it never happened. What says that the write stands stays open.
      if ([404, 409, 412, 400].includes(answer.status)) this.#forget(at)
    } catch (error) {
      this.#note((error as Error).message)
    }
    return undefined
  }

  /** A write that was refused is none; its place stays, so that the others keep theirs. */
  #forget(at: number): void {
    this.#history.writes[at] = { ...this.#history.writes[at]!, action: 'put', value: -1, acked: undefined }
  }

  async #read(tenant: string, { entity, value, text }: { entity: string; value: number; text: string }): Promise<void> {
    try {
      const answer = await ask(`${this.#entry()}/api/v1/entities/${entity}`, 'GET', {
        'x-tenant-id': tenant,
        'x-percolate-bookmark': text,
      })
      if (answer.status === 200)
        this.#history.reads.push({ tenant, entity, bookmarkValue: value, seen: answer.body.properties.v })
      else if (answer.status === 404)
        this.#history.reads.push({ tenant, entity, bookmarkValue: value, seen: undefined })
      else this.#note(answer.body?.code ?? `status ${answer.status}`)
    } catch (error) {
      this.#note((error as Error).message)
    }
  }

  async #inflict(kind: FaultKind): Promise<void> {
    const cluster = this.#cluster!
    const node = `node-${1 + Math.floor(this.#random() * 3)}`
    const nats = `nats-${1 + Math.floor(this.#random() * 3)}`
    const program = cluster.program(/nats-server/.test(kind) ? nats : node)
    switch (kind) {
      case 'kill node':
      case 'kill nats-server':
        await program.signal('SIGKILL')
        await sleep(500 + this.#random() * 2000)
        await program.start()
        break
      case 'stop node':
      case 'stop nats-server':
        await program.signal('SIGSTOP')
        await sleep(500 + this.#random() * 3000)
        await program.signal('SIGCONT')
        break
      case 'partition node from NATS':
        await this.#cutOff(name => name.startsWith(`${node} `))
        break
      case 'cut off node from its peers':
        await this.#cutOff(name => name.startsWith('peers ') && name.endsWith(` ${node}`))
        break
      case 'cut off nodes from one another':
        await this.#cutOff(name => name.startsWith('peers '))
        break
      case 'fill disk': {
        const folder = this.#disks[Math.floor(this.#random() * this.#disks.length)]!
        const { bavail, bsize } = await statfs(folder)
        const ballast = join(folder, 'ballast')
        await writeFile(ballast, Buffer.alloc(Math.max(0, bavail * bsize - DISK_LEFT_BYTES)))
        await sleep(2000 + this.#random() * 2000)
        await rm(ballast)
        break
      }
      default: {
        const offsetMs = kind.includes('5 min') ? 300_000 : 3000
        await program.signal('SIGKILL')
        program.launch({ PERCOLATE_CLOCK_OFFSET_MS: String(this.#random() < 0.5 ? offsetMs : -offsetMs) })
        await program.whenReady()
        await sleep(1500)
        await program.signal('SIGKILL')
        await program.start()
      }
    }
    await sleep(400)
  }

  async #cutOff(isMeant: (proxy: string) => boolean): Promise<void> {
    const proxies = [...this.#proxies].filter(([name]) => isMeant(name)).map(([, proxy]) => proxy)
    for (const proxy of proxies) proxy.cut()
    await sleep(1000 + this.#random() * 3000)
    for (const proxy of proxies) proxy.heal()
  }

  /** Waits until all holders are equal, then reads every register on every node. */
  async #rest(): Promise<{ final: FinalState; problems: string[] }> {
    const cluster = this.#cluster!
    const problems: string[] = []
    const tenants = [...new Set(this.#history.writes.map(({ tenant }) => tenant))]
    for (const tenant of tenants) {
      let last = 'no answer'
      const until = Date.now() + REST_MS_MAX
      for (;;) {
        const answer = await ask(`${cluster.addresses.nodes[0]!.url}/api/v1/replication/check`, 'GET', {
          'x-tenant-id': tenant,
        }).catch(() => undefined)
        if (answer?.body?.equal === true && answer.body.comparisons.length > 0) break
        last = JSON.stringify(answer?.body)
        if (Date.now() > until) {
          problems.push(`the holders of ${tenant} did not become equal: ${last.slice(0, 500)}`)
          break
        }
        await sleep(300)
      }
    }
    const final = new Map<string, (number | undefined)[]>()
    const names = new Map(this.#history.writes.map(({ tenant, entity }) => [`${tenant}/${entity}`, { tenant, entity }]))
    for (const [name, { tenant, entity }] of names) {
      const seen: (number | undefined)[] = []
      for (const { url } of cluster.addresses.nodes) {
        const answer = await ask(`${url}/api/v1/entities/${entity}`, 'GET', { 'x-tenant-id': tenant })
        if (answer.status === 200) seen.push(answer.body.properties.v)
        else if (answer.status === 404) seen.push(undefined)
        else problems.push(`${name} cannot be read on ${url}: ${JSON.stringify(answer.body)}`)
      }
      final.set(name, seen)
    }
    return { final, problems }
  }

  /** Mostly through the router, now and then straight to a node, which then may have to forward. */
  #entry(): string {
    const { api, nodes } = this.#cluster!.addresses
    return this.#random() < 0.7 ? api : nodes[Math.floor(this.#random() * nodes.length)]!.url
  }

  #note(what: string): void {
    this.#refused.set(what, (this.#refused.get(what) ?? 0) + 1)
  }

  #random(): number {
    this.#state = (Math.imul(this.#state, 1664525) + 1013904223) >>> 0
    return this.#state / 4294967296
  }
}

if (process.argv[1]?.endsWith('fault-run.js')) {
  const [dataDir = './data/fault-run', faults = '14', seed = '1'] = process.argv.slice(2)
  const report = await runFaults({
    dataDir,
    faults: Number(faults),
    seed: Number(seed),
    onProgress: text => console.error(text),
  })
  console.log(JSON.stringify(report, undefined, 2))
  process.exit(report.violations.length === 0 ? 0 : 1)
}
