import swagger from '@fastify/swagger'
import swaggerUi from '@fastify/swagger-ui'
import type { FastifyInstance } from 'fastify'
import type { TenantId } from '../../base/ids.ts'
import type { Time } from '../../base/time.ts'
import type { Gate } from '../../session/gate.ts'
import type { Operations } from '../operations/operations.ts'
import * as schemas from '../schemas.ts'
import { bodyAjv, queryAjv } from '../validate.ts'
import { addTenantHook, holdContinue } from './call.ts'
import { HttpForwarder } from './forward.ts'
import { addReplicationRoutes } from './replication.ts'
import { addChatRoute, addRoutes } from './routes.ts'
import { createHttpServer, type HttpServerOptions } from './server.ts'

export interface HttpApiOptions extends HttpServerOptions {
  readonly time: Time
  readonly operations: Operations
  readonly node: string
  readonly version: string
  readonly onTenant: (tenant: TenantId) => void
  /** Decides whether this node answers; a node without a cluster answers everything. */
  readonly gate: Gate | undefined
}

/** The database node's HTTP API, with OpenAPI at `/openapi.json` and its page at `/docs`. */
export async function createHttpApi(options: HttpApiOptions): Promise<FastifyInstance> {
  const app = createHttpServer(options)
  const { gate } = options
  const forwarder = gate && new HttpForwarder(gate.auth, options.operations.changes.closing)
  holdContinue(app)
  app.addHook('onClose', async () => forwarder?.close())
  const named = Object.values(schemas).filter(schema => typeof schema === 'object' && '$id' in schema)
  for (const schema of named) {
    app.addSchema(schema)
    for (const ajv of [bodyAjv, queryAjv]) if (!ajv.getSchema(String(schema.$id))) ajv.addSchema(schema)
  }
  await app.register(swagger, {
    openapi: {
      openapi: '3.0.3',
      info: {
        title: 'Percolate',
        version: options.version,
        description:
          'A REM database: Resources, Entities, Moments. Every request under /api names its tenant in X-Tenant-ID.',
      },
    },
    refResolver: { buildLocalReference: (json, _base, _fragment, n) => String(json.$id ?? `def-${n}`) },
  })
  await app.register(swaggerUi, { routePrefix: '/docs', uiConfig: { docExpansion: 'list' } })
  app.get('/openapi.json', { schema: { tags: ['operations'], summary: 'This document', hide: true } }, async () =>
    app.swagger(),
  )

  app.addHook('onRequest', async (_request, reply) => {
    // Who forwarded the request puts its own name over the second.
    void reply.header('x-percolate-node', options.node).header('x-percolate-entry-node', options.node)
  })
  await app.register(
    async scope => {
      addTenantHook(scope, { ...options, forwarder })
      addRoutes(scope, options.operations)
      addReplicationRoutes(scope, options.operations, gate)
    },
    { prefix: '/api/v1' },
  )
  await app.register(
    async scope => {
      addTenantHook(scope, { ...options, forwarder })
      addChatRoute(scope, '/chat/completions', options.operations)
    },
    { prefix: '/v1' },
  )
  return app
}
