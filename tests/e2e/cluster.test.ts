import { type ChildProcess, spawn } from 'node:child_process'
import { join } from 'node:path'
import type { Metadata } from '@grpc/grpc-js'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { PACKAGE_FOLDER } from '../../src/base/version.ts'
import { findProgram, LocalCluster } from '../../src/cluster/cluster.ts'
import { runFaults } from '../../test-topology/fault-run.ts'
import { FAST } from '../../test-topology/faults/world.ts'
import { isAlive, runCli } from '../../test-topology/launch.ts'
import { remapUnderLoad } from '../../test-topology/remap.ts'
import { grpcClient, writeStream } from '../support/grpc.ts'
import { eventually, remove, request, tempFolder, within } from '../support/running.ts'

interface Described {
  api: string
  grpc: string
  gateway: string
  nodes: { name: string; zone: string; url: string }[]
  processes: { name: string; pid: number }[]
}

async function startCluster(
  dataDir: string,
): Promise<{ child: ChildProcess; described: Described; stop: () => Promise<number | null> }> {
  const child = spawn(
    process.execPath,
    [join(PACKAGE_FOLDER, 'bin', 'percolate.mjs'), 'cluster', '--data-dir', dataDir, '--json'],
    { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ...FAST } },
  )
  let output = ''
  let errors = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    output += text
  })
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    errors += text
  })
  const exited = new Promise<number | null>(resolve => child.once('exit', code => resolve(code)))
  const described = await eventually(
    `the cluster is described (${errors})`,
    async () => {
      try {
        return JSON.parse(output) as Described
      } catch {
        return undefined
      }
    },
    100_000,
  )
  return {
    child,
    described,
    stop: () => {
      child.kill('SIGTERM')
      return exited
    },
  }
}

describe('percolate cluster', () => {
  let folder: string
  beforeAll(async () => {
    folder = await tempFolder()
  })
  afterAll(() => remove(folder))

  it('runs real processes in zones, survives kill -9 of a node, stops cleanly and comes back with everything', {
    timeout: 180_000,
  }, async () => {
    const cluster = await startCluster(folder)
    const { api, grpc, nodes, processes, gateway } = cluster.described
    expect(new Set(nodes.map(({ zone }) => zone)).size).toBe(3)
    expect(processes.map(({ name }) => name).sort()).toEqual([
      'controller',
      'gateway',
      'nats-1',
      'nats-2',
      'nats-3',
      'node-1',
      'node-2',
      'node-3',
      'router',
      's3',
      'worker-1',
    ])
    const put = (id: string, headers = {}) =>
      request(`${api}/api/v1/entities/${id}`, 'PUT', { tenant: 'acme', body: { name: id }, headers })
    const written = await within('a first write', put('ada', { 'x-percolate-durability': 'replicated' }))
    expect([written.status, written.headers.get('x-percolate-durability')]).toEqual([200, 'replicated'])

    const { client, metadata } = grpcClient(grpc, 'acme')
    const head = new Promise<string>((resolve, reject) =>
      client.GetEntity!({ id: 'ada' }, metadata, (error: Error | null) => error && reject(error)).once(
        'metadata',
        (sent: Metadata) => resolve(String(sent.get('x-percolate-entry-node')[0])),
      ),
    )
    expect(await within('a read over gRPC', head)).toBe(written.headers.get('x-percolate-entry-node'))
    const followed: AsyncIterator<{ value: { changes: unknown[] } }> = client.FollowChanges!(
      { heartbeat_ms: 100 },
      metadata,
    )[Symbol.asyncIterator]()
    await within('the feed begins', followed.next())
    expect((await within('a stream of writes', writeStream(client, metadata, 300))).written).toBe(300)
    await eventually('they are in the change feed', async () => (await followed.next()).value.changes.length > 0)
    const found: string[] = []
    const search = async () => {
      for await (const { resource } of client.SearchResources!({ query: 'streamed', limit: 3 }, metadata))
        found.push(resource.uri)
    }
    await within('a search over gRPC', search())
    expect(found).toEqual(['bulk', 'bulk', 'bulk'])
    client.close()

    const form = new FormData()
    form.append('file', new Blob(['Tides are caused by the moon.']), 'tides.txt')
    // A busy machine may take more than one attempt to make the first replicated job stream.
    await eventually('the upload is taken', async () => {
      const { status } = await request(`${gateway}/upload`, 'POST', { tenant: 'acme', body: form })
      if (status !== 202 && status !== 503) throw new Error(`the gateway answered ${status}`)
      return status === 202
    })
    await eventually('the document is searchable through every node', async () => {
      const answers = await Promise.all(
        nodes.map(({ url }) => request(`${url}/api/v1/resources?query=moon`, 'GET', { tenant: 'acme' })),
      )
      return answers.every(({ status, body }) => status === 200 && body.results.length > 0)
    })

    const entry = written.headers.get('x-percolate-entry-node')!
    process.kill(processes.find(({ name }) => name === entry)!.pid, 'SIGKILL')
    await eventually('the tenant answers and takes writes without its node', async () => {
      const read = await request(`${api}/api/v1/entities/ada`, 'GET', { tenant: 'acme' }).catch(() => undefined)
      return read?.status === 200 && (await put('bob')).status === 200
    })

    expect(await within('the cluster stops', cluster.stop(), 90_000)).toBe(0)
    expect(processes.filter(({ pid }) => isAlive(pid))).toEqual([])
    const again = await startCluster(folder)
    try {
      const read = await eventually('what was written is there', async () => {
        const answer = await request(`${again.described.api}/api/v1/entities/bob`, 'GET', { tenant: 'acme' })
        return answer.status === 200 && answer
      })
      expect(read.body.name).toBe('bob')
      const checked = await eventually('check --cluster finds the holders equal', async () => {
        const result = await runCli(['check', '--cluster', 'acme', '--url', again.described.api])
        return result.code === 0 && result.stdout.includes('equal') && result
      })
      expect(checked.stdout).toMatch(/acme\s+node-\d, node-\d\s+equal/)
    } finally {
      expect(await within('the second cluster stops', again.stop(), 90_000)).toBe(0)
    }
  })

  it('leaves nothing behind when it is killed itself', { timeout: 120_000 }, async () => {
    const cluster = await startCluster(folder)
    const { processes } = cluster.described
    cluster.child.kill('SIGKILL')
    await eventually('every process is gone', async () => !processes.some(({ pid }) => isAlive(pid)), 30_000)
  })

  it('says what is wrong with its flags', async () => {
    expect((await runCli(['cluster', '--nodes', '0'])).stderr).toMatch(/--nodes .* whole number from 1 to 16/)
    expect((await runCli(['cluster', '--nats', '2'])).stderr).toMatch(/must be 1, 3 or more/)
    expect((await runCli(['cluster', '--sync-streams', 'many'])).stderr).toMatch(/per-tenant or pooled:N/)
  })
})

describe('a cluster scaled to zero', () => {
  it('holds what comes, and answers it when a node is there again', { timeout: 120_000 }, async () => {
    const folder = await tempFolder()
    const path = process.env.PATH ?? ''
    const cluster = await LocalCluster.prepare({
      dataDir: folder,
      nodes: 2,
      nats: 1,
      zones: 2,
      workers: 0,
      replicas: 2,
      syncStreams: 'per-tenant',
      env: FAST,
      natsProgram: findProgram('nats-server', path, ''),
      haproxyProgram: findProgram('haproxy', path, ''),
      onExit: () => {},
    })
    try {
      await cluster.start()
      const { api } = cluster.addresses
      const put = await request(`${api}/api/v1/entities/ada`, 'PUT', { tenant: 'acme', body: { name: 'Ada' } })
      expect(put.status).toBe(200)
      await Promise.all(['node-1', 'node-2'].map(name => cluster.program(name).stop()))
      const startedAtMs = Date.now()
      const read = request(`${api}/api/v1/entities/ada`, 'GET', { tenant: 'acme' })
      await new Promise(resolve => setTimeout(resolve, 500))
      cluster.program(put.headers.get('x-percolate-node')!).launch()
      const answer = await read
      expect([answer.status, answer.body.name]).toEqual([200, 'Ada'])
      console.log(`answered ${Date.now() - startedAtMs} ms after it was sent, the node started 500 ms after`)
      await eventually('the router asks the node itself', async () => {
        const stats = await (await fetch(`${cluster.addresses.router}/;csv`)).text()
        return /^http_small,activator,.*MAINT/m.test(stats)
      })
    } finally {
      await cluster.stop()
      await remove(folder)
    }
  })
})

describe('a cluster under load', () => {
  it('loses no acknowledged write to kills, stops, partitions and wrong clocks', { timeout: 300_000 }, async () => {
    const folder = await tempFolder()
    // One of each sort; the long command has them all.
    const kinds = [
      'kill node',
      'kill nats-server',
      'stop node at a chosen point',
      'restart all nats-servers',
      'partition node from NATS',
      'isolate node in the kernel',
      'clock of a running node jumps',
    ] as const
    const report = await runFaults({ dataDir: folder, faults: kinds.length, kinds })
    console.log(JSON.stringify(report))
    expect(report.violations).toEqual([])
    expect(report.attempted).toBeGreaterThan(200)
    for (const level of ['local', 'stream', 'replicated']) expect(report.acknowledged[level]).toBeGreaterThan(10)
    expect(report.bookmarkedReads).toBeGreaterThan(20)
    expect(report.conditional.acknowledged).toBeGreaterThan(20)
    expect(report.feeds.events).toBeGreaterThan(100)
    await remove(folder)
  })

  it('fails no request and empties no answer while a node joins and leaves', { timeout: 180_000 }, async () => {
    const folder = await tempFolder()
    const path = process.env.PATH ?? ''
    const cluster = await LocalCluster.prepare({
      dataDir: folder,
      nodes: 3,
      nats: 1,
      zones: 3,
      workers: 0,
      replicas: 2,
      syncStreams: 'per-tenant',
      spareNodes: 1,
      env: { PERCOLATE_DRAIN_NOTICE_MS: '1500' },
      natsProgram: findProgram('nats-server', path, ''),
      haproxyProgram: findProgram('haproxy', path, ''),
      onExit: () => {},
    })
    try {
      await cluster.start()
      const report = await remapUnderLoad(cluster)
      console.log(JSON.stringify(report))
      expect(report.failures).toEqual([])
      expect([report.failed, report.empty]).toEqual([0, 0])
      expect(report.requests).toBeGreaterThan(500)
      expect(report.tenantsMoved).toBeLessThan(report.tenants / 2)
    } finally {
      await cluster.stop()
      await remove(folder)
    }
  })
})
