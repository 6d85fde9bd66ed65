import { PercolateError } from '../../base/errors.ts'
import { checkId } from '../../base/ids.ts'
import { BATCH_ITEMS_MAX, LIST_LIMIT_MAX } from '../../base/limits.ts'
import { bytesInsteadOfJson } from '../../base/page-bytes.ts'
import type { Time } from '../../base/time.ts'
import type { Session } from '../../session/session.ts'
import type { Conditions } from '../operations/conditions.ts'
import type { Operations } from '../operations/operations.ts'
import * as schemas from '../schemas.ts'
import { check } from '../validate.ts'
import { type CallContext, clientStream, serverStream, unary } from './calls.ts'
import { takeOver } from './held-messages.ts'
import { citationMessage, type Message, positive, toInput, toMessage } from './messages.ts'
import { messageBytes } from './strict-messages.ts'

/** A batch of a stream is written when it has so many resources, or so many bytes, or when the client was silent for so long: what a client holds back holds no memory here. */
const BULK_ITEMS = 250
const BULK_BYTES = 1024 * 1024
const BULK_WAIT_MS = 1000
const BULK_IDS_RETURNED = 1000

/** The implementation of `percolate.v1.Rem`: each method turns its message into the input that HTTP takes and calls the same operation. */
export function remMethods(
  context: CallContext,
  { resources, entities, moments, chat, changes, replication }: Operations,
) {
  const idOf = (request: Message) => checkId(String(request.id ?? ''), 'id')
  const ifMatchOf = (request: Message) => request.if_match as string | undefined
  const remover = (name: string, of: { delete(call: Session, id: string, ifMatch?: string): Promise<void> }) =>
    unary(
      context,
      name,
      async (call, request) => {
        await of.delete(call, idOf(request), ifMatchOf(request))
        return {}
      },
      'delete',
      ['if_match'],
    )

  return {
    PutResources: unary(context, 'PutResources', async (call, request) => {
      const input = check<{ resources: schemas.ResourceInput[] }>(
        schemas.ResourcesInput,
        { resources: [], ...toInput(request) },
        'request',
      )
      return toMessage(await resources.put(call, input.resources))
    }),
    WriteResources: clientStream(context, 'WriteResources', (call, requests) =>
      writeResources(context, call, requests, resources),
    ),
    GetResource: unary(
      context,
      'GetResource',
      async (call, request) => {
        const { resource, etag } = await resources.get(call, idOf(request))
        return toMessage({ ...resource, etag })
      },
      'read',
    ),
    DeleteResource: remover('DeleteResource', resources),
    ListResources: serverStream(context, 'ListResources', (call, request, hold) => {
      const { limit: _limit, ...query } = toInput(request)
      const base = check<schemas.ResourcesQuery>(schemas.ResourcesQuery, query, 'request')
      return pages(
        positive(request.limit),
        async (limit, cursor) => resources.query(call, { ...base, limit, ...(cursor ? { cursor } : {}) }),
        hold,
      )
    }),
    SearchResources: serverStream(context, 'SearchResources', async function* (call, request, hold) {
      const { limit: _limit, ...rest } = toInput(request)
      const limit = positive(request.limit)
      const input = check<schemas.SearchInput>(
        schemas.SearchInput,
        { ...rest, ...(limit === undefined ? {} : { limit }) },
        'request',
      )
      const { results, cursor, warnings } = await resources.search(call, input)
      hold(bytesOf(results))
      for (const [n, { score, snippet, ...resource }] of results.entries()) {
        const last = n === results.length - 1
        yield {
          resource: toMessage(resource),
          score,
          snippet,
          ...(last && cursor ? { cursor } : {}),
          ...(n === 0 && warnings ? { warnings } : {}),
        }
      }
    }),

    PutEntities: unary(
      context,
      'PutEntities',
      async (call, request) => {
        const { if_match: _ifMatch, if_none_match: _ifNoneMatch, ...rest } = toInput(request)
        const input = check<{ entities: schemas.EntityInput[] }>(
          schemas.EntitiesInput,
          { entities: [], ...rest },
          'request',
        )
        const conditions: Conditions = {
          ifMatch: ifMatchOf(request),
          ifNoneMatch: request.if_none_match === undefined ? undefined : '*',
        }
        return toMessage(await entities.put(call, input.entities, conditions))
      },
      'write',
      ['if_match', 'if_none_match'],
    ),
    GetEntity: unary(
      context,
      'GetEntity',
      async (call, request) => {
        const { entity, etag } = await entities.get(call, idOf(request))
        return toMessage({ ...entity, etag })
      },
      'read',
    ),
    DeleteEntity: remover('DeleteEntity', entities),
    FindEntities: serverStream(context, 'FindEntities', (call, request, hold) => {
      const { limit: _limit, ...query } = toInput(request)
      const base = check<schemas.EntitiesQuery>(schemas.EntitiesQuery, query, 'request')
      return pages(
        positive(request.limit),
        async (limit, cursor) => entities.query(call, { ...base, limit, ...(cursor ? { cursor } : {}) }),
        hold,
      )
    }),
    TraverseEntities: unary(
      context,
      'TraverseEntities',
      async (call, request) => {
        const { id: _id, limit: _limit, depth: _depth, ...rest } = toInput(request)
        const [limit, depth] = [positive(request.limit), positive(request.depth)]
        const query = { ...rest, ...(limit === undefined ? {} : { limit }), ...(depth === undefined ? {} : { depth }) }
        return toMessage(
          await entities.traverse(
            call,
            idOf(request),
            check<schemas.TraverseQuery>(schemas.TraverseQuery, query, 'request'),
          ),
        )
      },
      'read',
    ),

    AppendMoments: unary(context, 'AppendMoments', async (call, request) => {
      const input = check<{ moments: schemas.MomentInput[] }>(
        schemas.MomentsInput,
        { moments: [], ...toInput(request) },
        'request',
      )
      return toMessage(await moments.append(call, input.moments))
    }),
    GetMoment: unary(
      context,
      'GetMoment',
      async (call, request) => {
        const { moment, etag } = await moments.get(call, idOf(request))
        return toMessage({ ...moment, etag })
      },
      'read',
    ),
    DeleteMoment: remover('DeleteMoment', moments),
    ListMoments: serverStream(context, 'ListMoments', (call, request, hold) => {
      const { limit: _limit, ...query } = toInput(request)
      const base = check<schemas.MomentsQuery>(schemas.MomentsQuery, query, 'request')
      return pages(
        positive(request.limit),
        async (limit, cursor) => moments.query(call, { ...base, limit, ...(cursor ? { cursor } : {}) }),
        hold,
      )
    }),

    FollowChanges: serverStream(
      context,
      'FollowChanges',
      async function* (call, request) {
        const heartbeatMs = positive(request.heartbeat_ms) ?? 15_000
        const cursor = request.cursor === undefined ? undefined : String(request.cursor)
        for await (const event of changes.follow(
          call,
          { cursor, field: 'cursor' },
          Math.min(60_000, Math.max(100, heartbeatMs)),
        ))
          yield { cursor: event.cursor, heartbeat: event.changes === undefined, changes: event.changes ?? [] }
      },
      changes.places,
    ),
    GetReplication: unary(
      context,
      'GetReplication',
      async (call, request) => {
        const bookmark = request.bookmark === undefined ? undefined : String(request.bookmark)
        const { holders, ...rest } = await replication.describe(call, bookmark)
        return toMessage({
          ...rest,
          holders: holders.map(({ vector, ...holder }) => ({ ...holder, vector: { ...vector } })),
        })
      },
      'read',
    ),

    Chat: serverStream(context, 'Chat', async function* (call, request) {
      const reply = await chat.chat(call, check<schemas.ChatInput>(schemas.ChatInput, toInput(request), 'request'))
      for await (const { text, citations } of reply.pieces) {
        if (text !== '' || citations)
          yield { text, model: reply.model, ...(citations ? { citations: citations.map(citationMessage) } : {}) }
      }
    }),
  }
}

const bytesOf = (results: readonly object[]): number =>
  results.reduce((sum: number, one) => sum + bytesInsteadOfJson(one), 0)

/** Streams a listing page by page, so that memory stays bounded however long it is: a page is held until it is sent. */
async function* pages(
  total: number | undefined,
  read: (limit: number, cursor: string | undefined) => Promise<{ results: readonly object[]; cursor?: string }>,
  hold: (bytes: number) => void,
): AsyncGenerator<Message> {
  if (total !== undefined && total < 0)
    throw new PercolateError('INVALID_ARGUMENT', 'limit must not be negative.', { field: 'limit' })
  let left = total ?? Number.POSITIVE_INFINITY
  let cursor: string | undefined
  do {
    const page = await read(Math.min(left, LIST_LIMIT_MAX / 4), cursor)
    hold(bytesOf(page.results))
    for (const result of page.results) yield toMessage(result as Record<string, unknown>)
    left -= page.results.length
    cursor = page.cursor
  } while (cursor !== undefined && left > 0)
}

async function writeResources(
  { time }: CallContext,
  call: Session,
  requests: AsyncIterable<Message>,
  resources: Operations['resources'],
): Promise<Message> {
  let batch: schemas.ResourceInput[] = []
  let bytes = 0
  let releases: (() => void)[] = []
  let ids: string[] = []
  let written = 0
  let pending = 0
  const letGo = () => {
    for (const release of releases) release()
    releases = []
    bytes = 0
  }
  const flush = async () => {
    if (batch.length === 0) return
    const result = await resources.put(call, batch)
    written += result.ids.length
    pending += result.pending ?? 0
    ids = [...ids, ...result.ids].slice(-BULK_IDS_RETURNED)
    batch = []
    letGo()
  }
  const take = async (request: Message) => {
    releases.push(takeOver(request))
    bytes += messageBytes(request)
    batch.push(check<schemas.ResourceInput>(schemas.ResourceInput, { content: '', ...toInput(request) }, 'message'))
    if (batch.length >= Math.min(BULK_ITEMS, BATCH_ITEMS_MAX) || bytes >= BULK_BYTES) await flush()
  }
  const messages = requests[Symbol.asyncIterator]()
  try {
    for (let next = messages.next(); ; ) {
      next.catch(() => {})
      const message = batch.length > 0 ? await within(next, BULK_WAIT_MS, time) : await next
      if (message === undefined) await flush()
      else if (message.done) break
      else {
        await take(message.value)
        next = messages.next()
      }
    }
    await flush()
  } catch (error) {
    void messages.return?.().catch(() => {})
    if (!(error instanceof PercolateError)) throw error
    throw new PercolateError(error.code, `${error.message} (${written} resources before this batch are stored.)`, {
      ...(error.field === undefined ? {} : { field: error.field }),
      ...(error.retryAfterS === undefined ? {} : { retryAfterS: error.retryAfterS }),
      cause: error,
    })
  } finally {
    letGo()
  }
  return { written, pending, ids }
}

/** What is awaited, or undefined when it takes longer. */
async function within<T>(awaited: Promise<T>, ms: number, time: Time): Promise<T | undefined> {
  const done = new AbortController()
  try {
    return await Promise.race([awaited, time.sleep(ms, { signal: done.signal, ref: false }).then(() => undefined)])
  } finally {
    done.abort()
  }
}
