import { type Static, type TSchema, Type } from '@sinclair/typebox'
import { errorTable } from '../base/errors.ts'
import {
  ALIASES_MAX,
  BATCH_ITEMS_MAX,
  BOOKMARK_CHARS_MAX,
  CATEGORY_BYTES_MAX,
  CHAT_MESSAGES_MAX,
  CURSOR_CHARS_MAX,
  DIMENSIONS_MAX,
  EDGES_PER_REQUEST_MAX,
  ID_BYTES_MAX,
  LIST_LIMIT_DEFAULT,
  LIST_LIMIT_MAX,
  QUERY_CHARS_MAX,
  REFERENCES_MAX,
  SEARCH_LIMIT_DEFAULT,
  TIME_CHARS_MAX,
  TRAVERSE_DEPTH_MAX,
  URI_BYTES_MAX,
} from '../base/limits.ts'

/** The shapes of the API, once: they check HTTP and gRPC requests and make the OpenAPI document. Unknown fields are refused. */

const closed = { additionalProperties: false } as const
const nullable = <T extends TSchema>(schema: T) => Type.Union([schema, Type.Null()])
/** One of some texts: an enum in the OpenAPI document, where a union of constants would show its first only. */
const oneOf = <const T extends string>(...values: T[]) => Type.Unsafe<T>({ type: 'string', enum: values })
const JsonObject = Type.Record(Type.String(), Type.Unknown(), { description: 'Any JSON object.' })
const TimeInput = Type.Union([Type.String(), Type.Integer()], {
  description: 'ISO 8601 text, or milliseconds since the epoch.',
})
const Cursor = Type.Optional(Type.String({ maxLength: CURSOR_CHARS_MAX, description: 'From the last answer; opaque.' }))
const Limit = Type.Optional(Type.Integer({ minimum: 1, maximum: LIST_LIMIT_MAX, default: LIST_LIMIT_DEFAULT }))

export const Embedding = Type.Array(Type.Number(), { minItems: 1, maxItems: DIMENSIONS_MAX })

export const ResourceInput = Type.Object(
  {
    content: Type.String({ minLength: 1, description: 'The text of one chunk.' }),
    uri: Type.Optional(
      Type.String({
        description: 'Where the content comes from; with ordinal and content it identifies the resource.',
      }),
    ),
    ordinal: Type.Optional(
      Type.Integer({
        minimum: 0,
        maximum: 2 ** 31 - 1,
        default: 0,
        description: 'Position of the chunk in its document.',
      }),
    ),
    name: Type.Optional(nullable(Type.String())),
    category: Type.Optional(nullable(Type.String())),
    metadata: Type.Optional(JsonObject),
    embedding: Type.Optional(Embedding),
    embedding_model: Type.Optional(
      Type.String({
        minLength: 1,
        maxLength: 200,
        description: 'Which model made `embedding`; default: the configured one.',
      }),
    ),
  },
  {
    ...closed,
    $id: 'ResourceInput',
    example: {
      content: 'The warranty lasts 24 months.',
      uri: 'manual://pump',
      category: 'manuals',
      metadata: { page: 3 },
    },
  },
)
export type ResourceInput = Static<typeof ResourceInput>

export const ResourcesInput = Type.Object(
  { resources: Type.Array(ResourceInput, { minItems: 1, maxItems: BATCH_ITEMS_MAX }) },
  { ...closed, $id: 'ResourcesInput' },
)

export const EmbeddingsInput = Type.Object(
  {
    embeddings: Type.Array(
      Type.Object(
        {
          id: Type.String(),
          embedding: Embedding,
          embedding_model: Type.Optional(Type.String({ minLength: 1, maxLength: 200 })),
        },
        closed,
      ),
      { minItems: 1, maxItems: BATCH_ITEMS_MAX },
    ),
  },
  { ...closed, $id: 'EmbeddingsInput', example: { embeddings: [{ id: '0f…', embedding: [0.1, 0.2] }] } },
)
export type EmbeddingsInput = Static<typeof EmbeddingsInput>

const RetractedIds = Type.Optional(Type.Array(Type.String(), { maxItems: BATCH_ITEMS_MAX }))
export const RetractionInput = Type.Object(
  { resources: RetractedIds, entities: RetractedIds, moments: RetractedIds },
  { ...closed, $id: 'RetractionInput', example: { resources: ['0f…'] } },
)
export type RetractionInput = Static<typeof RetractionInput>

export const RetractionOutput = Type.Object(
  {
    retracted: Type.Integer({
      description: 'Records that are deleted as of the clock, whether they were there or not.',
    }),
    kept: Type.Optional(
      Type.Array(
        Type.Object({
          kind: Type.Union([Type.Literal('resource'), Type.Literal('entity'), Type.Literal('moment')]),
          id: Type.String(),
        }),
        {
          description:
            'Records that have something from before the clock. They are left as they are, also with what was written with it.',
        },
      ),
    ),
  },
  { $id: 'RetractionOutput' },
)
export type RetractionOutput = Static<typeof RetractionOutput>

export const EdgeInput = Type.Object(
  {
    type: Type.String({ minLength: 1 }),
    to: Type.String({ minLength: 1, description: 'Id of the entity that the edge leads to.' }),
    weight: Type.Optional(Type.Number()),
    properties: Type.Optional(JsonObject),
    remove: Type.Optional(Type.Boolean({ description: 'true deletes the edge.' })),
  },
  closed,
)

const entityFields = {
  type: Type.Optional(nullable(Type.String({ minLength: 1 }))),
  name: Type.Optional(nullable(Type.String({ minLength: 1 }))),
  aliases: Type.Optional(
    Type.Array(Type.String({ minLength: 1 }), { maxItems: ALIASES_MAX, description: 'Added to those that are there.' }),
  ),
  remove_aliases: Type.Optional(Type.Array(Type.String({ minLength: 1 }), { maxItems: ALIASES_MAX })),
  properties: Type.Optional(
    Type.Record(Type.String(), Type.Unknown(), { description: 'Merged one by one; null removes a property.' }),
  ),
  edges: Type.Optional(Type.Array(EdgeInput, { maxItems: EDGES_PER_REQUEST_MAX })),
}
export const EntityPatch = Type.Object(entityFields, {
  ...closed,
  $id: 'EntityPatch',
  example: {
    type: 'person',
    name: 'Ada Lovelace',
    properties: { born: 1815 },
    edges: [{ type: 'knows', to: 'charles' }],
  },
})
export type EntityPatch = Static<typeof EntityPatch>
export const EntityInput = Type.Object(
  { id: Type.String({ minLength: 1 }), ...entityFields },
  {
    ...closed,
    $id: 'EntityInput',
    example: { id: 'ada', type: 'person', name: 'Ada Lovelace', properties: { born: 1815 } },
  },
)
export type EntityInput = Static<typeof EntityInput>
export const EntitiesInput = Type.Object(
  { entities: Type.Array(EntityInput, { minItems: 1, maxItems: BATCH_ITEMS_MAX }) },
  { ...closed, $id: 'EntitiesInput' },
)

export const MomentInput = Type.Object(
  {
    id: Type.Optional(
      Type.String({
        minLength: 1,
        description: 'Default: derived from what the moment says, so that the same one twice is one.',
      }),
    ),
    time: Type.Optional(TimeInput),
    end_time: Type.Optional(nullable(TimeInput)),
    type: Type.Optional(nullable(Type.String({ minLength: 1 }))),
    name: Type.Optional(nullable(Type.String())),
    content: Type.Optional(nullable(Type.String())),
    parent: Type.Optional(
      nullable(Type.String({ minLength: 1, description: 'Id of the moment that this one is part of.' })),
    ),
    resources: Type.Optional(Type.Array(Type.String({ minLength: 1 }), { maxItems: REFERENCES_MAX })),
    entities: Type.Optional(Type.Array(Type.String({ minLength: 1 }), { maxItems: REFERENCES_MAX })),
    metadata: Type.Optional(JsonObject),
  },
  {
    ...closed,
    $id: 'MomentInput',
    example: {
      type: 'meeting',
      time: '2026-11-24T12:00:00Z',
      content: 'Ada met Charles.',
      entities: ['ada', 'charles'],
    },
  },
)
export type MomentInput = Static<typeof MomentInput>
export const MomentsInput = Type.Object(
  { moments: Type.Array(MomentInput, { minItems: 1, maxItems: BATCH_ITEMS_MAX }) },
  { ...closed, $id: 'MomentsInput' },
)

/** What listings and searches go by: no longer than what can be written, in characters, of which a text never has more than bytes. */
const Category = Type.String({ maxLength: CATEGORY_BYTES_MAX })
const Mode = oneOf('hybrid', 'text', 'vector')
const SearchLimit = Type.Integer({
  minimum: 1,
  maximum: LIST_LIMIT_MAX,
  description: `Default ${SEARCH_LIMIT_DEFAULT} with a query, ${LIST_LIMIT_DEFAULT} without. A page with much text ends earlier.`,
})

export const ResourcesQuery = Type.Object(
  {
    query: Type.Optional(
      Type.String({
        maxLength: QUERY_CHARS_MAX,
        description: 'What to search for; without it resources are listed, newest first.',
        example: 'warranty of the pump',
      }),
    ),
    mode: Type.Optional(Mode),
    limit: Type.Optional(SearchLimit),
    cursor: Cursor,
    category: Type.Optional(Category),
    uri: Type.Optional(Type.String({ maxLength: URI_BYTES_MAX, description: 'Only resources of this uri.' })),
    filter: Type.Optional(
      Type.String({
        maxLength: 8192,
        description: '`{"page":{"gte":3},"uri":{"prefix":"file:"}}`, or short: `category:report,lang:en`.',
      }),
    ),
    embedding: Type.Optional(Type.Literal('pending', { description: 'Lists what has no embedding yet.' })),
  },
  { ...closed, $id: 'ResourcesQuery' },
)
export type ResourcesQuery = Static<typeof ResourcesQuery>

export const SearchInput = Type.Object(
  {
    query: Type.Optional(Type.String({ maxLength: QUERY_CHARS_MAX })),
    embedding: Type.Optional(Embedding),
    mode: Type.Optional(Mode),
    limit: Type.Optional(SearchLimit),
    cursor: Cursor,
    category: Type.Optional(Category),
    uri: Type.Optional(Type.String({ maxLength: URI_BYTES_MAX })),
    filter: Type.Optional(Type.Union([Type.String({ maxLength: 8192 }), JsonObject])),
  },
  {
    ...closed,
    $id: 'SearchInput',
    example: { query: 'warranty of the pump', mode: 'hybrid', limit: 5, filter: 'category:manuals' },
  },
)
export type SearchInput = Static<typeof SearchInput>

export const EntitiesQuery = Type.Object(
  {
    name: Type.Optional(
      Type.String({ maxLength: 1024, description: 'Key, alias, prefix of either, or a misspelling.' }),
    ),
    type: Type.Optional(Category),
    limit: Limit,
    cursor: Cursor,
  },
  { ...closed, $id: 'EntitiesQuery' },
)
export type EntitiesQuery = Static<typeof EntitiesQuery>

export const TraverseQuery = Type.Object(
  {
    depth: Type.Optional(Type.Integer({ minimum: 1, maximum: TRAVERSE_DEPTH_MAX, default: 1 })),
    direction: Type.Optional(oneOf('out', 'in', 'both')),
    type: Type.Optional(Type.String({ maxLength: CATEGORY_BYTES_MAX, description: 'Only edges of this type.' })),
    limit: Limit,
  },
  { ...closed, $id: 'TraverseQuery' },
)
export type TraverseQuery = Static<typeof TraverseQuery>

export const MomentsQuery = Type.Object(
  {
    from: Type.Optional(Type.String({ maxLength: TIME_CHARS_MAX, description: 'Earliest time, inclusive.' })),
    to: Type.Optional(Type.String({ maxLength: TIME_CHARS_MAX, description: 'Latest time, inclusive.' })),
    type: Type.Optional(Category),
    parent: Type.Optional(Type.String({ maxLength: ID_BYTES_MAX })),
    resource: Type.Optional(
      Type.String({ maxLength: ID_BYTES_MAX, description: 'Only moments that refer to this resource.' }),
    ),
    entity: Type.Optional(
      Type.String({ maxLength: ID_BYTES_MAX, description: 'Only moments that refer to this entity.' }),
    ),
    limit: Limit,
    cursor: Cursor,
  },
  { ...closed, $id: 'MomentsQuery' },
)
export type MomentsQuery = Static<typeof MomentsQuery>

export const ChatInput = Type.Object(
  {
    messages: Type.Array(
      Type.Object({
        role: oneOf('system', 'developer', 'user', 'assistant', 'tool'),
        content: Type.Union([
          Type.String(),
          Type.Array(Type.Object({ type: Type.String(), text: Type.Optional(Type.String()) })),
          Type.Null(),
        ]),
      }),
      { minItems: 1, maxItems: CHAT_MESSAGES_MAX },
    ),
    stream: Type.Optional(Type.Boolean()),
    model: Type.Optional(Type.String()),
    temperature: Type.Optional(Type.Number({ minimum: 0, maximum: 2 })),
    max_tokens: Type.Optional(Type.Integer({ minimum: 1 })),
  },
  // OpenAI's clients send more than this (`n`, `user`, `stream_options`, …); what is not listed has no effect.
  { $id: 'ChatInput', example: { messages: [{ role: 'user', content: 'How long is the warranty?' }] } },
)
export type ChatInput = Static<typeof ChatInput>

export const Ids = Type.Object({ ids: Type.Array(Type.String()) }, { $id: 'Ids' })
export const ResourceIds = Type.Object(
  {
    ids: Type.Array(Type.String()),
    pending: Type.Optional(Type.Integer({ description: 'How many are stored without an embedding as yet.' })),
  },
  { $id: 'ResourceIds' },
)

export const ResourceOutput = Type.Object(
  {
    id: Type.String(),
    uri: nullable(Type.String()),
    ordinal: Type.Integer(),
    name: nullable(Type.String()),
    content: Type.String(),
    category: nullable(Type.String()),
    metadata: JsonObject,
    embedding: oneOf('stored', 'pending'),
    embedding_model: nullable(Type.String()),
    updated_at: Type.String({ format: 'date-time' }),
    score: Type.Optional(Type.Number()),
    snippet: Type.Optional(Type.String({ description: 'HTML-escaped excerpt; matched words stand in <mark>.' })),
  },
  { $id: 'Resource' },
)
export type ResourceOutput = Static<typeof ResourceOutput>
export const ResourcesOutput = Type.Object(
  {
    results: Type.Array(ResourceOutput),
    cursor: Type.Optional(Type.String()),
    warnings: Type.Optional(Type.Array(Type.String())),
  },
  { $id: 'Resources' },
)

const EdgeOutput = Type.Object({
  from: Type.String(),
  type: Type.String(),
  to: Type.String(),
  weight: Type.Number(),
  properties: JsonObject,
})
const entityOutputFields = {
  id: Type.String(),
  type: nullable(Type.String()),
  name: nullable(Type.String()),
  aliases: Type.Array(Type.String()),
  properties: JsonObject,
  updated_at: Type.String({ format: 'date-time' }),
}
export const EntityOutput = Type.Object(
  {
    ...entityOutputFields,
    edges: Type.Array(EdgeOutput),
    edges_truncated: Type.Optional(
      Type.Boolean({
        description: 'There are more edges than one answer lists; `traverse` by type reaches the others.',
      }),
    ),
  },
  { $id: 'Entity' },
)
export type EntityOutput = Static<typeof EntityOutput>
export const EntitiesOutput = Type.Object(
  {
    results: Type.Array(
      Type.Object({ ...entityOutputFields, score: Type.Optional(Type.Number()), match: Type.Optional(Type.String()) }),
    ),
    cursor: Type.Optional(Type.String()),
  },
  { $id: 'Entities' },
)
export const TraverseOutput = Type.Object(
  {
    start: Type.String(),
    results: Type.Array(Type.Object({ ...entityOutputFields, depth: Type.Integer(), path: Type.Array(Type.String()) })),
    edges: Type.Array(EdgeOutput),
    truncated: Type.Boolean(),
  },
  { $id: 'Traversal' },
)
export const MomentOutput = Type.Object(
  {
    id: Type.String(),
    time: Type.String({ format: 'date-time' }),
    end_time: nullable(Type.String()),
    type: nullable(Type.String()),
    name: nullable(Type.String()),
    content: nullable(Type.String()),
    parent: nullable(Type.String()),
    resources: Type.Array(Type.String()),
    entities: Type.Array(Type.String()),
    metadata: JsonObject,
  },
  { $id: 'Moment' },
)
export type MomentOutput = Static<typeof MomentOutput>
export const MomentsOutput = Type.Object(
  { results: Type.Array(MomentOutput), cursor: Type.Optional(Type.String()) },
  { $id: 'Moments' },
)

export const ChangesQuery = Type.Object(
  {
    cursor: Type.Optional(
      Type.String({
        maxLength: BOOKMARK_CHARS_MAX,
        description: 'From an event, or `earliest`; left out: from now. `Last-Event-ID` wins.',
      }),
    ),
    heartbeat_ms: Type.Optional(Type.Integer({ minimum: 100, maximum: 60_000, default: 15_000 })),
  },
  { $id: 'ChangesQuery', ...closed },
)
export type ChangesQuery = Static<typeof ChangesQuery>

export const ReplicationQuery = Type.Object(
  {
    bookmark: Type.Optional(Type.String({ maxLength: BOOKMARK_CHARS_MAX, description: 'Asks which holders have it.' })),
  },
  { $id: 'ReplicationQuery', ...closed },
)
export type ReplicationQuery = Static<typeof ReplicationQuery>

export const LateInput = Type.Object(
  {
    origin: Type.String({ minLength: 1, maxLength: 256 }),
    sequence: Type.Integer({ minimum: 1 }),
    action: oneOf('apply', 'discard'),
  },
  { $id: 'LateInput', ...closed },
)
export type LateInput = Static<typeof LateInput>

export const SyncInput = Type.Object(
  {
    entries: Type.Array(Type.String({ maxLength: 12 * 1024 * 1024, description: 'An encoded entry, base64.' }), {
      minItems: 1,
      maxItems: BATCH_ITEMS_MAX,
    }),
  },
  { $id: 'SyncInput', ...closed },
)
export type SyncInput = Static<typeof SyncInput>

export const ProblemOutput = Type.Object(
  {
    type: Type.String(),
    title: Type.String(),
    status: Type.Integer(),
    code: Type.String({ enum: Object.keys(errorTable), description: 'Stable; docs/errors.md has what each means.' }),
    detail: Type.String(),
    field: Type.Optional(Type.String()),
    request_id: Type.Optional(Type.String()),
    cursor: Type.Optional(Type.String({ description: 'Of a feed that ended: where to follow on.' })),
    bookmark: Type.Optional(
      Type.String({
        description: 'Of CHANGES_EXPIRED and DURABILITY_NOT_REACHED: read with it as `X-Percolate-Bookmark`.',
      }),
    ),
    durability: Type.Optional(Type.String({ description: 'Of DURABILITY_NOT_REACHED: what was reached.' })),
  },
  { $id: 'Problem' },
)
