import { rm, statfs } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { systemTime } from '../../src/base/time.ts'
import { findProgram, LocalCluster } from '../../src/cluster/cluster.ts'
import { watchNats } from '../../src/cluster/watch-nats.ts'
import { type RunningUp, startUp } from '../../src/up.ts'
import { connectNats, eventually, logger, request, testConfig } from '../support/running.ts'
import { fillDisk, smallDisk } from '../support/small-disk.ts'

const MIB = 1024 * 1024
const RESERVE = 16 * MIB

const disk = await smallDisk(160)
const clusterDisk = await smallDisk(100)

/** All of Percolate on a disk of its own that gets full, below everything that it keeps there: databases, streams, objects. */
describe.skipIf(!disk)(
  'percolate up on a full disk',
  () => {
    const filler = join(disk ?? '', 'filler')
    const fatal: string[] = []
    let up: RunningUp

    beforeAll(async () => {
      up = await startUp({
        config: testConfig(join(disk!, 'data'), {
          PERCOLATE_DISK_RESERVE_BYTES: String(RESERVE),
          PERCOLATE_JOB_ATTEMPTS_MAX: '2',
        }),
        logger,
        time: systemTime,
        searchPath: process.env.PATH ?? '',
        onFatal: reason => fatal.push(reason),
      })
    })
    afterAll(async () => {
      await up?.stop()
    })

    const put = (tenant: string) => request(`${up.httpUrl}/api/v1/entities/a`, 'PUT', { tenant, body: { name: 'A' } })
    const upload = (bytes: number, tenant = 'acme') => {
      const body = new FormData()
      body.append('file', new Blob(['word '.repeat(Math.ceil(bytes / 5))]), 'notes.txt')
      return request(`${up.gatewayUrl}/upload`, 'POST', { tenant, body })
    }
    const freeBytes = async () => {
      const { bavail, bsize } = await statfs(disk!)
      return bavail * bsize
    }
    const job = (id: string) => request(`${up.gatewayUrl}/jobs/${id}`, 'GET')

    it('refuses an upload that is larger than the room, keeps nothing of it, and leaves the others their reserve', async () => {
      expect((await put('acme')).status).toBe(200)
      const before = await freeBytes()
      let least = before
      let isDone = false
      const watched = (async () => {
        while (!isDone) {
          least = Math.min(least, await freeBytes())
          await systemTime.sleep(5)
        }
      })()
      const refused = await upload(before + 10 * MIB)
      isDone = true
      await watched
      expect([refused.status, refused.body.code]).toEqual([503, 'OBJECT_STORE_UNAVAILABLE'])
      expect(refused.body.detail).toMatch(/disk.*full/i)
      expect(least).toBeGreaterThan(RESERVE)
      await eventually('its parts are gone', async () => (await freeBytes()) > before - 10 * MIB)
      expect((await put('acme')).status).toBe(200)
    })

    it('refuses uploads below the reserve, and a job that finds the disk full waits until there is room', async () => {
      await fillDisk(filler, RESERVE / 2)
      const small = await upload(100)
      expect([small.status, small.body.code]).toEqual([503, 'OBJECT_STORE_UNAVAILABLE'])
      await rm(filler)
      await eventually('there is room', async () => (await put('acme')).status === 200)

      // The disk gets full between the upload and the job.
      const { status, body } = await upload(2 * MIB)
      expect(status).toBe(202)
      await fillDisk(filler, RESERVE / 2)
      const waiting = await eventually('the job finds it full', async () => {
        const { body: record } = await job(body.job_id)
        return record.error?.code === 'DISK_FULL' && record.status === 'queued' && record
      })
      expect(waiting.attempts).toBe(0)
      expect(waiting.error.detail).not.toMatch(/\.\./)
      await rm(filler)
      await eventually('it is done', async () => (await job(body.job_id)).body.status === 'completed', 60_000)
    })

    it('goes on by itself when there is room again: new tenants, uploads, changes of others', async () => {
      expect((await put('acme')).status).toBe(200)
      await fillDisk(filler)
      // What JetStream is asked to write meanwhile ends it: uploads, heartbeats, the cluster's directory.
      for (const until = Date.now() + 4000; Date.now() < until; ) {
        expect((await upload(100)).status).toBe(503)
        await systemTime.sleep(200)
      }
      await rm(filler)
      await eventually('a new tenant is made', async () => (await put(`new-${Date.now()}`)).status === 200, 60_000)
      const accepted = await eventually('an upload is taken', async () => {
        const answer = await upload(100)
        return answer.status === 202 && answer
      })
      await eventually('it is done', async () => (await job(accepted.body.job_id)).body.status === 'completed', 60_000)
      expect(fatal).toEqual([])
    })
  },
  120_000,
)

it.skipIf(!clusterDisk).each([1, 3])(
  'of a local cluster with %i nats-servers each that a full disk has ended is restarted, one after another, though nobody saw the disk full',
  async nats => {
    const path = process.env.PATH ?? ''
    const filler = join(clusterDisk!, 'filler')
    const said: string[] = []
    const cluster = await LocalCluster.prepare({
      dataDir: join(clusterDisk!, `cluster-${nats}`),
      nodes: 1,
      nats,
      zones: 1,
      workers: 0,
      replicas: 1,
      syncStreams: 'per-tenant',
      natsProgram: findProgram('nats-server', path, ''),
      haproxyProgram: findProgram('haproxy', path, ''),
      onExit: (name, reason) => said.push(`${name} ended: ${reason}`),
    })
    const servers = cluster.addresses.natsMonitors.map(({ name }) => cluster.program(name))
    await Promise.all(servers.map(server => server.start()))
    const stream = connectNats(cluster.natsUrl)
    const isDone = (work: Promise<unknown>) =>
      work.then(
        () => true,
        () => false,
      )
    const publish = (id: string) => isDone(stream.publish('full.disk', Buffer.alloc(100_000), id))
    let unwatch = async () => {}
    try {
      const spec = { name: 'full', subjects: ['full.>'], retention: 'limits', maxAgeMs: 0, replicas: nats } as const
      await eventually('the stream is made', () => isDone(stream.ensureStream(spec)))
      await eventually('it takes messages', () => publish('before'))
      await fillDisk(filler)
      await eventually('it takes no more', async () => !(await publish(`full-${Date.now()}`)))
      await rm(filler)
      // Shorter than any look at the disk: the watch begins when all of it is over.
      unwatch = watchNats(cluster, { time: systemTime, reserveBytes: RESERVE, say: text => said.push(text) })
      await eventually('a server runs again', async () => said.some(text => text.includes('runs again')), 90_000)
      await eventually('it takes messages again', () => publish(`after-${Date.now()}`), 90_000)
      expect(said.filter(text => text.includes('ended:'))).toEqual([])
      const steps = said.map(text => /is restarted|runs again/.exec(text)?.[0]).filter(Boolean)
      steps.forEach((step, n) => {
        expect(step).toBe(n % 2 ? 'runs again' : 'is restarted')
      })
    } finally {
      await stream.close()
      await unwatch()
      await Promise.all(servers.map(server => server.stop()))
      await rm(join(clusterDisk!, `cluster-${nats}`), { recursive: true, force: true })
    }
  },
  240_000,
)
