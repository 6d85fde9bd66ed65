import type { FastifyInstance } from 'fastify'
import { holdContinue } from '../../base/expect-continue.ts'
import type { TenantId } from '../../base/ids.ts'
import type { Time } from '../../base/time.ts'
import type { Gate } from '../../session/gate.ts'
import type { HeldAnswers } from '../held-answers.ts'
import type { HeldBodies } from '../held-bodies.ts'
import type { Operations } from '../operations/operations.ts'
import * as schemas from '../schemas.ts'
import type { SlowReaders } from '../slow-readers.ts'
import { bodyAjv, queryAjv } from '../validate.ts'
import { addTenantHook } from './call.ts'
import { HttpForwarder } from './forward.ts'
import { holdAnswers } from './hold-answers.ts'
import { addHome } from './home.ts'
import { addOpenApi } from './openapi.ts'
import { addReplicationRoutes } from './replication.ts'
import { addRetractionRoute } from './retractions.ts'
import { addChatRoute, addRoutes } from './routes.ts'
import { createHttpServer, type HttpServerOptions } from './server.ts'

export interface HttpApiOptions extends HttpServerOptions {
  readonly time: Time
  /** See `ClockBounds`. */
  readonly asOfAheadMsMax: number
  readonly operations: Operations
  readonly node: string
  readonly onTenant: (tenant: TenantId) => void
  /** Decides whether this node answers; a node without a cluster answers everything. */
  readonly gate: Gate | undefined
  readonly readers: SlowReaders
  readonly bodies: HeldBodies
  readonly answers: HeldAnswers
}

const UPLOADS_ELSEWHERE = 'uploads and jobs are at the upload gateway, port 8081 unless set otherwise'

/** The database node's HTTP API, with OpenAPI at `/openapi.json` and its page at `/docs`. */
export async function createHttpApi(options: HttpApiOptions): Promise<FastifyInstance> {
  const app = createHttpServer({
    ...options,
    elsewhere: { '/upload': UPLOADS_ELSEWHERE, '/jobs': UPLOADS_ELSEWHERE },
    hasCopies: true,
  })
  const { gate } = options
  const forwarder = gate && new HttpForwarder(gate.auth, options.operations.changes.places)
  holdContinue(app.server)
  holdAnswers(app, options.answers, options.readers)
  app.addHook('onClose', async () => forwarder?.close())
  const named = Object.values(schemas).filter(schema => typeof schema === 'object' && '$id' in schema)
  for (const schema of named) {
    app.addSchema(schema)
    for (const ajv of [bodyAjv, queryAjv]) if (!ajv.getSchema(String(schema.$id))) ajv.addSchema(schema)
  }
  await addOpenApi(app)
  addHome(app, {
    role: 'database node',
    about:
      'A memory for AI products: documents found by meaning and by words, a graph of people and things, a timeline; a database of its own for every tenant.',
    links: [
      { href: '/docs', text: 'the API, to read and to try' },
      { href: '/openapi.json', text: 'the same for programs' },
      { href: '/ready', text: 'whether this node can do its work' },
      { href: '/metrics', text: 'for Prometheus' },
    ],
  })

  await app.register(
    async scope => {
      addTenantHook(scope, { ...options, forwarder })
      addRoutes(scope, options.operations, options.readers)
      addReplicationRoutes(scope, options.operations, gate, options.readers)
      addRetractionRoute(scope, options.operations)
    },
    { prefix: '/api/v1' },
  )
  await app.register(
    async scope => {
      addTenantHook(scope, { ...options, forwarder })
      addChatRoute(scope, '/chat/completions', options.operations, options.readers)
    },
    { prefix: '/v1' },
  )
  return app
}
