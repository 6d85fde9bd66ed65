import type { FastifyInstance } from 'fastify'
import { PEER_HEADER } from '../../replication/auth.ts'
import type { Gate } from '../../session/gate.ts'
import type { Operations } from '../operations/operations.ts'
import type * as schemas from '../schemas.ts'
import type { SlowReaders } from '../slow-readers.ts'
import { sendEvents } from './events.ts'
import { tenantHeader } from './tenant-header.ts'

const ref = (name: string) => ({ $ref: `${name}#` })
const problems = { '4XX': ref('Problem'), '5XX': ref('Problem') }
const anything = { type: 'object', additionalProperties: true }

/** Routes about a tenant's copies and changes. */
export function addReplicationRoutes(
  app: FastifyInstance,
  { changes, replication }: Operations,
  gate: Gate | undefined,
  readers: SlowReaders,
): void {
  const route = (summary: string, rest: object = {}) => ({
    schema: {
      tags: ['replication'],
      summary,
      headers: tenantHeader,
      response: { 200: anything, ...problems },
      ...rest,
    },
  })
  app.get(
    '/changes',
    {
      ...route('Follow what changes, as server-sent events; `Last-Event-ID` resumes', {
        description:
          'After 410 `CHANGES_EXPIRED` read what you need anew with the `bookmark` of the answer as `X-Percolate-Bookmark`, then follow from its `cursor`.',
        querystring: ref('ChangesQuery'),
        response: { 200: { type: 'string', description: 'text/event-stream' }, ...problems },
      }),
      config: { lasts: 'feed' },
    },
    async (request, reply) => {
      const query = request.query as schemas.ChangesQuery
      const last = request.headers['last-event-id']
      const from =
        last === undefined || last === ''
          ? { cursor: query.cursor, field: 'cursor' }
          : { cursor: String(last), field: 'Last-Event-ID' }
      const events = changes.follow(request.call, from, query.heartbeat_ms ?? 15_000)
      await sendEvents(reply, events, readers)
      return reply
    },
  )
  app.get(
    '/replication',
    {
      ...route("The tenant's holders, how far each is, and whether a bookmark is on them", {
        querystring: ref('ReplicationQuery'),
      }),
      config: { isLocal: true },
    },
    async request => replication.describe(request.call, (request.query as schemas.ReplicationQuery).bookmark),
  )
  app.get(
    '/replication/check',
    {
      ...route('Compare the holders with one another; names the first differences'),
      config: { isLocal: true },
    },
    async request => replication.check(request.call),
  )
  app.get(
    '/replication/late',
    {
      ...route('Writes that came from below the floor, and were set aside'),
      config: { isLocal: true },
    },
    async request => replication.late(request.call),
  )
  app.post(
    '/replication/late',
    { ...route('Apply a late write as of now, or discard it', { body: ref('LateInput') }), config: { isHomes: true } },
    async request => {
      const { origin, sequence, action } = request.body as schemas.LateInput
      return replication.resolveLate(request.call, origin, sequence, action)
    },
  )
  app.post(
    '/sync',
    {
      ...route('Replication entries from another node of the cluster', { body: ref('SyncInput'), hide: true }),
      config: { isLocal: true },
      // Before its body is read.
      onRequest: async request => {
        gate?.auth.verify(request.headers[PEER_HEADER], request.call.tenant)
      },
    },
    async request => replication.sync(request.call, (request.body as schemas.SyncInput).entries),
  )
}
