import { connect, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { ask } from '../ask.ts'
import { natsMessages } from '../faults/idle.ts'
import { upload } from '../jobs.ts'
import { holdersEqual, type Scenario, until, withTopology } from './scenario.ts'

const REFUSED = 1000
const LANES = 16
const MEASURED_MS = 4000
/** What an idle cluster may send more than before, and a little for chance. */
const TIMES_MAX = 2
const MESSAGES_MORE_MAX = 20
const COPIES_AIM_MS = 1500

export const refusedRequests: Scenario = {
  name: 'refused-requests',
  title: `${REFUSED} refused requests of tenants that do not exist leave nothing behind and slow nothing down`,
  run: (context, verdict) =>
    withTopology(context, verdict, { fixed: { nodes: 3, workers: 0 } }, async topology => {
      const { cluster } = topology
      const { api } = cluster.addresses
      const put = (tenant: string) => ask(`${api}/api/v1/entities/x`, 'PUT', { 'x-tenant-id': tenant }, { name: 'x' })
      const idle = async () => {
        const [from, startedAt] = [await natsMessages(cluster), performance.now()]
        await sleep(MEASURED_MS)
        return ((await natsMessages(cluster)) - from) / ((performance.now() - startedAt) / 1000)
      }
      const copiesAfterMs = async (tenant: string) => {
        const startedAt = performance.now()
        verdict.check(`${tenant} can write`, (await put(tenant)).status === 200)
        await until(`${tenant} has two copies`, context, 0, () => holdersEqual(api, tenant))
        return performance.now() - startedAt
      }
      const beforeMs = await copiesAfterMs('before')
      const before = await idle()
      const statuses = new Map<number, number>()
      let next = 0
      const lane = async () => {
        while (next < REFUSED) {
          const { status } = await ask(`${api}/api/v1/resources`, 'POST', { 'x-tenant-id': `refused-${next++}` }, {})
          statuses.set(status, (statuses.get(status) ?? 0) + 1)
        }
      }
      await Promise.all(Array.from({ length: LANES }, lane))
      verdict.check('all are refused as what they are, 400', statuses.get(400) === REFUSED && statuses.size === 1)
      const known = await ask(`${api}/api/v1/replication`, 'GET', { 'x-tenant-id': 'refused-1' })
      verdict.check(`the directory has nothing of them: ${known.status}`, known.status === 404)
      const afterMs = await copiesAfterMs('after')
      await sleep(1000)
      const after = await idle()
      verdict.figure('idle, messages to NATS a second, before', before)
      verdict.figure('idle, messages to NATS a second, after', after)
      verdict.figure('copies of a new tenant before, ms', beforeMs)
      verdict.figure('copies of a new tenant after, ms', afterMs)
      verdict.check('the cluster is as idle as before', after <= before * TIMES_MAX + MESSAGES_MORE_MAX)
      verdict.aim(`a new tenant has its copies within ${COPIES_AIM_MS} ms`, afterMs < COPIES_AIM_MS)
    }),
}

const OPEN_TENANTS_MAX = 16
const FEEDS = 3 * OPEN_TENANTS_MAX
const OTHERS = 8
const NODES = 2

export const idleFeeds: Scenario = {
  name: 'idle-feeds',
  title: 'More idle change feeds than a node may have tenants open leave room for everybody else',
  run: (context, verdict) =>
    withTopology(
      context,
      verdict,
      {
        fixed: { nodes: NODES, workers: 0 },
        replicas: 2,
        env: { PERCOLATE_OPEN_TENANTS_MAX: String(OPEN_TENANTS_MAX) },
      },
      async topology => {
        const { api, nodes: places } = topology.cluster.addresses
        const nodes = places.slice(0, NODES)
        const put = (tenant: string) => ask(`${api}/api/v1/entities/x`, 'PUT', { 'x-tenant-id': tenant }, { name: 'x' })
        const abort = new AbortController()
        let open = 0
        for (let n = 0; n < FEEDS; n++) {
          const tenant = `followed-${n}`
          await until(`${tenant} is there`, context, 0, async () => (await put(tenant)).status === 200)
          // Straight to one node, so that they meet.
          const feed = fetch(`${nodes[0]!.url}/api/v1/changes?heartbeat_ms=60000&cursor=earliest`, {
            headers: { 'x-tenant-id': tenant },
            signal: abort.signal,
          })
          feed.then(
            ({ status }) => {
              if (status === 200) open++
            },
            () => {},
          )
        }
        await until('the feeds are open', context, 0, () => open === FEEDS).catch(() => {})
        verdict.figure('feeds open', open)
        verdict.check('every feed opens', open === FEEDS)
        const answers: number[] = []
        for (let n = 0; n < OTHERS; n++)
          for (const { url } of nodes) {
            const headers = { 'x-tenant-id': `other-${n}` }
            answers.push((await ask(`${url}/api/v1/entities/x`, 'PUT', headers, { name: 'x' }, 20_000)).status)
            answers.push((await ask(`${url}/api/v1/entities/x`, 'GET', headers, undefined, 20_000)).status)
          }
        const refused = answers.filter(status => status !== 200)
        verdict.figure('requests of others', answers.length)
        verdict.figure('of these refused', refused.length)
        verdict.check(`every other tenant is answered ${refused.join(' ')}`.trim(), refused.length === 0)
        abort.abort()
      },
    ),
}

const SILENT = 12
/** Less than what a silent upload is left alone for by default. */
const UPLOAD_MS_MAX = 25_000

export const silentUploads: Scenario = {
  name: 'silent-uploads',
  title: `${SILENT} uploads of which nothing comes do not keep others from uploading`,
  run: (context, verdict) =>
    withTopology(context, verdict, { fixed: { nodes: 2, workers: 0 }, replicas: 2 }, async topology => {
      const { gateway } = topology.cluster.addresses
      const { hostname, port } = new URL(gateway)
      const sockets: Socket[] = []
      try {
        for (let n = 0; n < SILENT; n++) {
          const socket = connect({ host: hostname, port: Number(port) })
          socket.on('error', () => {})
          sockets.push(socket)
          await new Promise(resolve => socket.once('connect', resolve))
          // Half of them stop before the part, half in the middle of it.
          socket.write(
            `POST /upload HTTP/1.1\r\nhost: ${hostname}\r\nx-tenant-id: silent-${n % 3}\r\ncontent-type: multipart/form-data; boundary=b\r\ncontent-length: 1000000\r\n\r\n--b\r\n`,
          )
          if (n % 2 === 1)
            socket.write(
              'content-disposition: form-data; name="file"; filename="a.txt"\r\ncontent-type: text/plain\r\n\r\nA',
            )
        }
        await sleep(500)
        const startedAt = performance.now()
        const file = { name: 'note.txt', content: 'Tides are caused by the moon.' }
        const outcome = await Promise.race([
          upload(gateway, 'busy', file).then(
            () => 'taken',
            (error: Error) => error.message,
          ),
          sleep(UPLOAD_MS_MAX, 'no answer', { ref: false }),
        ])
        verdict.figure('silent uploads open', sockets.filter(socket => !socket.destroyed).length)
        verdict.figure('the upload of another took ms', performance.now() - startedAt)
        verdict.check(`another tenant's upload is taken: ${outcome}`, outcome === 'taken')
      } finally {
        for (const socket of sockets) socket.destroy()
      }
    }),
}
