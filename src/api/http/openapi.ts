import swagger from '@fastify/swagger'
import swaggerUi from '@fastify/swagger-ui'
import type { FastifyInstance } from 'fastify'
import { VERSION } from '../../base/version.ts'
import { gatewayDocument, gatewayPaths } from '../gateway-openapi.ts'
import { describeErrors, describeHeaders } from './openapi-headers.ts'

const UI = { routePrefix: '/docs', uiConfig: { docExpansion: 'list', tryItOutEnabled: true } } as const

const ABOUT = `A REM database: **Resources** (chunks of documents, found by meaning and by words), **Entities** (a graph), **Moments** (a timeline). Every tenant has a
database of its own: a request names its tenant in \`X-Tenant-ID\`. Errors are RFC 9457 problem details with a stable \`code\`. Uploads and their jobs are at the gateway, another port.`

/** `GET /api/v1/entities/:id/traverse` → `getEntitiesByIdTraverse`: stable as long as the route is. */
export function operationId(method: string, url: string): string {
  const words = url
    .replace(/^\/api\/v1/, '')
    .split(/[/._-]/)
    .filter(Boolean)
    .flatMap(part => (part.startsWith(':') ? `by-${part.slice(1)}` : part).split('-'))
  return [method.toLowerCase(), ...words.map(word => word[0]!.toUpperCase() + word.slice(1))].join('')
}

/** The database node's OpenAPI at `/openapi.json` and its page at `/docs`, made of the routes' schemas, with the gateway's routes beside them. */
export async function addOpenApi(app: FastifyInstance): Promise<void> {
  await app.register(swagger, {
    openapi: { openapi: '3.0.3', info: { title: 'Percolate', version: VERSION, description: ABOUT } },
    refResolver: { buildLocalReference: (json, _base, _fragment, n) => String(json.$id ?? `def-${n}`) },
    transform: ({ schema, url, route }) => ({
      schema: { operationId: operationId([route.method].flat()[0] ?? 'get', url), ...schema },
      url,
    }),
    transformObject: document => {
      if (!('openapiObject' in document)) return document.swaggerObject
      const paths = structuredClone({ ...document.openapiObject.paths, ...(gatewayPaths() as object) })
      describeHeaders(paths as Parameters<typeof describeHeaders>[0])
      return { ...document.openapiObject, paths }
    },
  })
  await app.register(swaggerUi, UI)
  app.get('/openapi.json', { schema: { hide: true } }, async () => app.swagger())
}

/** The gateway's own document and page. */
export async function addGatewayOpenApi(app: FastifyInstance): Promise<void> {
  const document = structuredClone(gatewayDocument(VERSION))
  describeErrors(document.paths as unknown as Parameters<typeof describeErrors>[0])
  await app.register(swagger, { mode: 'static', specification: { document: document as never } })
  await app.register(swaggerUi, UI)
  app.get('/openapi.json', async () => app.swagger())
}
