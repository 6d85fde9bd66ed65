import { type ErrorSpec, errorTable } from '../../base/errors.ts'
import { durabilities } from '../../replication/replica.ts'

/** What the routes' schemas do not say themselves: the headers that every read or write takes and gives, and the codes of its errors. Conditions are in the schemas. */

interface Operation {
  parameters?: { readonly name?: string }[]
  responses?: Record<string, { description?: string; headers?: object }>
}
type Paths = Record<string, Record<string, Operation>>

const string = (rest: object = {}) => ({ schema: { type: 'string', ...rest } })
const header = (name: string, description: string, rest: object = {}) => ({
  name,
  in: 'header',
  required: false,
  description,
  ...string(rest),
})

const BOOKMARK = header('X-Percolate-Bookmark', 'Of a write or a feed: the answer has all that it names.')
const CONSISTENCY = header('X-Percolate-Consistency', "`home`: the tenant's home answers.", { enum: ['any', 'home'] })
const WRITE_BOOKMARK = header(
  'X-Percolate-Bookmark',
  'The write is later than the write that it came with, and the bookmark of the answer names that, too.',
)
const DURABILITY = header(
  'X-Percolate-Durability',
  'Wait until the write is this durable; 503 when it is not in time.',
  {
    enum: [...durabilities],
  },
)
const AS_OF = header(
  'X-Percolate-As-Of',
  'Write with this clock instead of now: 12 hex digits of ms, 8 of a counter, a name.',
)
const LAST_EVENT = header('Last-Event-ID', 'Go on behind this event; wins over `cursor`.')

const given = (description: string) => ({ description, ...string() })
const ALWAYS = {
  'X-Request-Id': given('As it was sent, or made; the log has it.'),
  'X-Percolate-Node': given('Who answered.'),
  'X-Percolate-Entry-Node': given('Whom the router chose.'),
}
const OF_WRITE = {
  'X-Percolate-Durability': given('What was reached.'),
  'X-Percolate-Bookmark': given('Reads that carry it see this write.'),
  'X-Percolate-Clock': given('The clock that the write carries.'),
}
const ETAG = { ETag: given('For `If-Match`, and `If-None-Match` of a read.') }

/** POSTs that change nothing. */
const READS = /\/(search|chat|completions)$/
/** Answered by the node that is asked, whoever holds the tenant. */
const LOCAL = /\/replication(\/check)?$/

/** Completes the document of a database node in place. */
export function describeHeaders(paths: Paths): void {
  for (const [path, operations] of Object.entries(paths)) {
    if (!/^\/(api\/)?v1\//.test(path)) continue
    for (const [method, operation] of Object.entries(operations)) {
      const isRead = method === 'get' || READS.test(path)
      const parameters =
        LOCAL.test(path) || /\/late$/.test(path)
          ? []
          : isRead
            ? [BOOKMARK, CONSISTENCY, ...(path.endsWith('/changes') ? [LAST_EVENT] : [])]
            : [DURABILITY, WRITE_BOOKMARK, AS_OF]
      const own = operation.parameters ?? []
      // What a route says of a header itself is more to the point.
      const names = new Set(own.map(({ name }) => name))
      operation.parameters = [...own, ...parameters.filter(({ name }) => !names.has(name))]
      for (const [status, response] of Object.entries(operation.responses ?? {})) {
        const isDone = status.startsWith('2')
        response.headers = {
          ...ALWAYS,
          ...(isDone && !isRead ? OF_WRITE : {}),
          ...(isDone && path.endsWith('/{id}') && method !== 'delete' ? ETAG : {}),
        }
      }
    }
  }
  describeErrors(paths)
}

/** The codes that a class of statuses stands for. */
function codesOf(kind: '4' | '5'): string {
  const codes = Object.entries(errorTable as Record<string, ErrorSpec>).filter(
    ([, { http }]) => String(http)[0] === kind,
  )
  return codes.map(([code, { http }]) => `${http} \`${code}\``).join(', ')
}

export function describeErrors(paths: Paths): void {
  for (const operations of Object.values(paths))
    for (const { responses = {} } of Object.values(operations))
      for (const [status, what] of [
        ['4XX', 'Refused'],
        ['5XX', 'Try again later'],
      ] as const)
        if (responses[status])
          responses[status].description =
            `${what}; \`code\` says why, docs/errors.md what to do: ${codesOf(status[0] as '4' | '5')}.`
}
