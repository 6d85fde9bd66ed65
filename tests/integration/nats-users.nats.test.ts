import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { copyFile, writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { join } from 'node:path'
import { connect as connectClient } from 'nats'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { type RunningGateway, startGateway } from '../../gateway/gateway.ts'
import { systemTime } from '../../src/base/time.ts'
import { PACKAGE_FOLDER } from '../../src/base/version.ts'
import { freePorts } from '../../src/cluster/processes.ts'
import { loadConfig } from '../../src/config/load.ts'
import { type RunningController, startController } from '../../src/controller.ts'
import type { S3ObjectStore } from '../../src/objects/s3.ts'
import type { NatsStream } from '../../src/stream/nats/adapter.ts'
import { findNatsServer } from '../../src/stream/nats/server.ts'
import { subjects } from '../../src/stream/subjects.ts'
import { type RunningWorker, startWorker } from '../../workers/worker.ts'
import { FAST } from '../support/cluster.ts'
import {
  connectNats,
  eventually,
  logger,
  remove,
  request,
  startTestNode,
  startTestObjects,
  type TestNode,
  tempFolder,
  testConfig,
} from '../support/running.ts'

const ROLES = ['node', 'worker', 'gateway', 'controller'] as const
/** Text that nats-server would take for something else, were it not quoted as the manifest does. */
const PASSWORDS = { node: '1e10', worker: '0123456789', gateway: 'true', controller: '10MB', sys: 'off' }

/** A nats-server with the users of the manifests, and every role connected as its own. */
let folder: string
let server: ChildProcess
let port: number
const streams = {} as Record<(typeof ROLES)[number], NatsStream>
let stopObjects: (() => Promise<void>) | undefined
let objects: S3ObjectStore
const nodes: TestNode[] = []
let controller: RunningController
let gateway: RunningGateway
let worker: RunningWorker
beforeAll(async () => {
  folder = await tempFolder()
  port = (await freePorts(1))[0]!
  await copyFile(join(PACKAGE_FOLDER, 'k8s', 'components', 'nats', 'users.conf'), join(folder, 'users.conf'))
  await writeFile(
    join(folder, 'nats.conf'),
    `host: "127.0.0.1"\nport: ${port}\nmax_payload: 8MB\njetstream { store_dir: "${folder}/store", max_file_store: 200GB, max_memory_store: 64MB }\ninclude users.conf\n`,
  )
  const passwords = Object.fromEntries(
    Object.entries(PASSWORDS).map(([role, password]) => [`${role.toUpperCase()}_PASSWORD`, `'${password}'`]),
  )
  const program = findNatsServer({
    program: undefined,
    cacheFolder: join(PACKAGE_FOLDER, '.cache', 'nats-server'),
    searchPath: process.env.PATH ?? '',
  })
  server = spawn(program, ['-c', join(folder, 'nats.conf')], { env: { ...process.env, ...passwords }, stdio: 'ignore' })
  await eventually(
    'nats-server listens',
    () =>
      new Promise<boolean>(resolve => {
        const socket = connect(port, '127.0.0.1', () => resolve(true)).once('error', () => resolve(false))
        socket.unref()
      }),
  )
  for (const role of ROLES) streams[role] = connectNats(`nats://${role}:${PASSWORDS[role]}@127.0.0.1:${port}`)
  ;({ objects, stop: stopObjects } = await startTestObjects(folder))
  for (const name of ['n1', 'n2'])
    nodes.push(
      await startTestNode({
        env: { ...FAST, PERCOLATE_NODE_ID: name, PERCOLATE_ZONE: name },
        stream: streams.node,
        folder: join(folder, name),
        objects,
      }),
    )
  controller = await startController({
    config: loadConfig({
      role: 'controller',
      env: {
        ...FAST,
        PERCOLATE_NATS_URL: 'nats://unused:4222',
        PERCOLATE_ACTIVATOR_TIERS: 'small',
        PERCOLATE_ACTIVATOR_HTTP_PORT: '0',
        PERCOLATE_ACTIVATOR_GRPC_PORT: '0',
      },
    }),
    logger,
    time: systemTime,
    stream: streams.controller,
    objects,
    port: undefined,
  })
  const config = testConfig(folder)
  gateway = await startGateway({ config, logger, time: systemTime, stream: streams.gateway, objects })
  worker = await startWorker({
    config,
    logger,
    time: systemTime,
    stream: streams.worker,
    objects,
    nodeUrl: nodes[0]!.url,
    port: 0,
  })
})
afterAll(async () => {
  await worker?.stop()
  await gateway?.stop()
  await controller?.stop()
  for (const node of nodes) await node.stop()
  await stopObjects?.()
  for (const stream of Object.values(streams)) await stream.close()
  if (server) {
    const ended = once(server, 'exit')
    server.kill()
    // It writes into the folder until then.
    await ended
  }
  await remove(folder)
})

it('each role does its work as its own user: writes replicate, uploads are parsed', async () => {
  const written = await nodes[0]!.request('PUT', '/api/v1/entities/ada', {
    tenant: 'acme',
    body: { name: 'Ada' },
    headers: { 'x-percolate-durability': 'replicated' },
  })
  expect([written.status, written.headers.get('x-percolate-durability')]).toEqual([200, 'replicated'])
  const form = new FormData()
  form.set('file', new Blob(['Tides are caused by the moon.']), 'tides.txt')
  const url = `http://127.0.0.1:${gateway.port}`
  const { body } = await request(`${url}/upload`, 'POST', { tenant: 'acme', body: form })
  await eventually('the job is done', async () => {
    const job = await request(`${url}/jobs/${body.job_id}`, 'GET', { tenant: 'acme' })
    return job.body.status === 'completed'
  })
  const found = await nodes[1]!.request('GET', '/api/v1/resources?query=moon', {
    tenant: 'acme',
    headers: { 'x-percolate-consistency': 'home' },
  })
  expect(found.body.results).toHaveLength(1)
})

it.each(['worker', 'gateway'] as const)(
  'and nothing else: a %s can neither write nor read what nodes replicate',
  async role => {
    const acme = 'acme' as never
    const client = await connectClient({ servers: `127.0.0.1:${port}`, user: role, pass: PASSWORDS[role] })
    const denied = new Set<string>()
    void (async () => {
      for await (const { permissionContext } of client.status() as AsyncIterable<{
        permissionContext?: { subject: string }
      }>)
        if (permissionContext) denied.add(permissionContext.subject)
    })()
    const forbidden = [
      subjects.syncOps(acme),
      subjects.hint,
      `$KV.${subjects.clusterBucket}.${subjects.tenantKey(acme)}`,
      `$JS.API.STREAM.DELETE.${subjects.syncStream(acme)}`,
      `$JS.API.STREAM.PURGE.${subjects.jobsStream('small')}`,
      `$JS.API.STREAM.MSG.GET.${subjects.syncStream(acme)}`,
      `$JS.API.DIRECT.GET.KV_${subjects.clusterBucket}.${subjects.tenantKey(acme)}`,
      `$JS.API.CONSUMER.CREATE.${subjects.syncStream(acme)}.spy`,
      `$JS.API.CONSUMER.MSG.NEXT.${subjects.syncStream(acme)}.spy`,
    ]
    for (const subject of forbidden) client.publish(subject, '{}')
    client.subscribe('percolate.>')
    await eventually('all of it is refused', async () => {
      await client.flush()
      return [...forbidden, 'percolate.>'].every(subject => denied.has(subject))
    })
    await client.close()
  },
)
