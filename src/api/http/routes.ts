import type { FastifyInstance } from 'fastify'
import { PercolateError } from '../../base/errors.ts'
import { checkId } from '../../base/ids.ts'
import { DIMENSIONS_MAX, FILTER_CLAUSES_MAX, FILTER_VALUES_MAX, SEARCH_VALUES_MAX } from '../../base/limits.ts'
import type { Operations } from '../operations/operations.ts'
import * as schemas from '../schemas.ts'
import type { SlowReaders } from '../slow-readers.ts'
import { check } from '../validate.ts'
import { sendChat } from './chat.ts'
import { type Condition, conditionsOf, sendTagged } from './conditions.ts'
import { sendPage } from './pages.ts'
import { conditionalHeaders, tenantHeader } from './tenant-header.ts'

const ref = (name: string) => ({ $ref: `${name}#` })
const problems = { '4XX': ref('Problem'), '5XX': ref('Problem') }
const idParam = { type: 'object', properties: { id: { type: 'string' } }, required: ['id'] }

/** The body is one item or a list of them; checked by the handler, which can tell which is meant and so name the field at fault. */
const oneOrMany = (one: string, many: string) => ({ anyOf: [ref(one), ref(many)], 'x-checked-by-handler': true })

/** All routes under `/api/v1`; one operation behind each. */
export function addRoutes(app: FastifyInstance, operations: Operations, readers: SlowReaders): void {
  const { resources, entities, moments } = operations
  const route = (tag: string, summary: string, rest: object = {}) => ({
    schema: { tags: [tag], summary, headers: tenantHeader, ...rest },
  })
  /** A route that decides on conditions. */
  const guarded = (conditions: readonly Condition[], tag: string, summary: string, rest: object = {}) => ({
    schema: { tags: [tag], summary, headers: conditionalHeaders(conditions), ...rest },
    config: { conditions },
  })
  const MERGE = ['if-match', 'if-none-match'] as const
  const DELETE = ['if-match'] as const
  const READ = ['if-match', 'if-none-match'] as const
  const id = (params: unknown): string => checkId((params as { id: string }).id, 'id')

  app.post(
    '/resources',
    route('resources', 'Store one resource, or a list of them', {
      body: oneOrMany('ResourceInput', 'ResourcesInput'),
      response: { 201: ref('ResourceIds'), ...problems },
    }),
    async (request, reply) => {
      const inputs = itemsOf<schemas.ResourceInput>(
        request.body,
        'resources',
        schemas.ResourceInput,
        schemas.ResourcesInput,
      )
      return reply.code(201).send(await resources.put(request.call, inputs))
    },
  )
  app.get(
    '/resources',
    route('resources', 'Search with `query`, list without', {
      querystring: ref('ResourcesQuery'),
      response: { 200: ref('Resources'), ...problems },
    }),
    async (request, reply) =>
      sendPage(reply, await resources.query(request.call, request.query as schemas.ResourcesQuery)),
  )
  app.post(
    '/resources/search',
    {
      ...route('resources', 'Search with a body: for long queries and query embeddings', {
        body: ref('SearchInput'),
        response: { 200: ref('Resources'), ...problems },
      }),
      config: {
        isRead: true,
        bodyValues: {
          max: SEARCH_VALUES_MAX,
          remedy: `a filter has no more than ${FILTER_VALUES_MAX} values and ${FILTER_CLAUSES_MAX} clauses, an embedding no more than ${DIMENSIONS_MAX} components; ask in several requests.`,
        },
      },
    },
    async (request, reply) =>
      sendPage(reply, await resources.search(request.call, request.body as schemas.SearchInput)),
  )
  app.post(
    '/resources/embeddings',
    route('resources', 'Add embeddings to resources that lack them', {
      body: ref('EmbeddingsInput'),
      response: { 200: ref('Ids'), ...problems },
    }),
    async request => resources.putEmbeddings(request.call, request.body as schemas.EmbeddingsInput),
  )
  app.get(
    '/resources/:id',
    guarded(READ, 'resources', 'Read a resource', { params: idParam, response: { 200: ref('Resource'), ...problems } }),
    async (request, reply) => {
      const { resource, etag } = await resources.get(request.call, id(request.params))
      return sendTagged(request, reply, etag, resource)
    },
  )
  app.delete(
    '/resources/:id',
    guarded(DELETE, 'resources', 'Delete a resource; `If-Match` guards', {
      params: idParam,
      response: { 204: { type: 'null' }, ...problems },
    }),
    async (request, reply) => {
      await resources.delete(request.call, id(request.params), conditionsOf(request).ifMatch)
      return reply.code(204).send()
    },
  )

  app.post(
    '/entities',
    guarded(MERGE, 'entities', 'Merge one entity, or a list of them', {
      body: oneOrMany('EntityInput', 'EntitiesInput'),
      response: { 201: ref('Ids'), ...problems },
    }),
    async (request, reply) => {
      const inputs = itemsOf<schemas.EntityInput>(request.body, 'entities', schemas.EntityInput, schemas.EntitiesInput)
      return reply.code(201).send(await entities.put(request.call, inputs, conditionsOf(request)))
    },
  )
  app.get(
    '/entities',
    route('entities', 'Find by `name` (exact, prefix, fuzzy), or list', {
      querystring: ref('EntitiesQuery'),
      response: { 200: ref('Entities'), ...problems },
    }),
    async (request, reply) =>
      sendPage(reply, await entities.query(request.call, request.query as schemas.EntitiesQuery)),
  )
  app.put(
    '/entities/:id',
    guarded(MERGE, 'entities', 'Merge into an entity, making it when it is missing', {
      params: idParam,
      body: ref('EntityPatch'),
      response: { 200: ref('Entity'), ...problems },
    }),
    async (request, reply) => {
      const entityId = id(request.params)
      await entities.put(
        request.call,
        [{ ...(request.body as schemas.EntityPatch), id: entityId }],
        conditionsOf(request),
      )
      const { entity, etag } = await entities.getWritten(request.call, entityId)
      return reply.header('etag', etag).send(entity)
    },
  )
  app.get(
    '/entities/:id',
    guarded(READ, 'entities', 'Read an entity with its edges', {
      params: idParam,
      response: { 200: ref('Entity'), ...problems },
    }),
    async (request, reply) => {
      const { entity, etag } = await entities.get(request.call, id(request.params))
      return sendTagged(request, reply, etag, entity)
    },
  )
  app.delete(
    '/entities/:id',
    guarded(DELETE, 'entities', 'Delete an entity and the edges at it', {
      params: idParam,
      response: { 204: { type: 'null' }, ...problems },
    }),
    async (request, reply) => {
      await entities.delete(request.call, id(request.params), conditionsOf(request).ifMatch)
      return reply.code(204).send()
    },
  )
  app.get(
    '/entities/:id/traverse',
    route('entities', 'Walk the graph', {
      params: idParam,
      querystring: ref('TraverseQuery'),
      response: { 200: ref('Traversal'), ...problems },
    }),
    async (request, reply) =>
      sendPage(
        reply,
        await entities.traverse(request.call, id(request.params), request.query as schemas.TraverseQuery),
      ),
  )

  app.post(
    '/moments',
    route('moments', 'Append one moment, or a list of them', {
      body: oneOrMany('MomentInput', 'MomentsInput'),
      response: { 201: ref('Ids'), ...problems },
    }),
    async (request, reply) => {
      const inputs = itemsOf<schemas.MomentInput>(request.body, 'moments', schemas.MomentInput, schemas.MomentsInput)
      return reply.code(201).send(await moments.append(request.call, inputs))
    },
  )
  app.get(
    '/moments',
    route('moments', 'The feed, newest first', {
      querystring: ref('MomentsQuery'),
      response: { 200: ref('Moments'), ...problems },
    }),
    async (request, reply) => sendPage(reply, await moments.query(request.call, request.query as schemas.MomentsQuery)),
  )
  app.get(
    '/moments/:id',
    guarded(READ, 'moments', 'Read a moment', { params: idParam, response: { 200: ref('Moment'), ...problems } }),
    async (request, reply) => {
      const { moment, etag } = await moments.get(request.call, id(request.params))
      return sendTagged(request, reply, etag, moment)
    },
  )
  app.delete(
    '/moments/:id',
    guarded(DELETE, 'moments', 'Delete a moment', {
      params: idParam,
      response: { 204: { type: 'null' }, ...problems },
    }),
    async (request, reply) => {
      await moments.delete(request.call, id(request.params), conditionsOf(request).ifMatch)
      return reply.code(204).send()
    },
  )

  addChatRoute(app, '/chat', operations, readers)
}

/** Chat, also at the path that OpenAI's clients use. */
export function addChatRoute(app: FastifyInstance, path: string, operations: Operations, readers: SlowReaders): void {
  const schema = {
    tags: ['chat'],
    summary: "Answer from the tenant's resources, entities and moments, with citations; OpenAI-shaped",
    headers: tenantHeader,
    body: ref('ChatInput'),
    response: {
      200: {
        type: 'object',
        additionalProperties: true,
        description: 'A chat.completion with `citations`; with `stream: true` server-sent chunks.',
      },
      ...problems,
    },
  }
  app.post(
    path,
    { schema, config: { operation: 'POST /api/v1/chat', isRead: true, lasts: 'long' } },
    async (request, reply) => {
      const input = request.body as schemas.ChatInput
      return sendChat(reply, await operations.chat.chat(request.call, input), input.stream ?? false, readers)
    },
  )
}

function itemsOf<T>(
  body: unknown,
  name: string,
  one: Parameters<typeof check>[0],
  many: Parameters<typeof check>[0],
): T[] {
  if (body === null || typeof body !== 'object' || Array.isArray(body)) {
    throw new PercolateError('INVALID_ARGUMENT', `The body must be a JSON object: one item, or {"${name}": […]}.`, {
      field: 'body',
    })
  }
  if (name in body) return check<Record<string, T[]>>(many, body, 'body')[name]!
  return [check<T>(one, body, 'body')]
}
