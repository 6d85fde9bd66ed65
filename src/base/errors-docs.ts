import { type ErrorCode, type ErrorSpec, errorTable, grpcStatus } from './errors.ts'

const grpcNames = new Map<number, string>(Object.entries(grpcStatus).map(([name, code]) => [code, name]))
const retryWords = { never: 'no', later: 'yes, after a pause', fix: 'after a correction' }

/** What no node said. Pinned by `tests/integration/router-endings.test.ts`; fault runs take anything else without a code for a defect. */
const LOST = [
  '## Answers that no node gave',
  '',
  'When a node, a router or a connection goes in the middle of a request, nobody is left to give a code. Whatever ends without one is of this kind: **a read can be asked again; what became of a write is not known.** A plain write can be sent again as it was (ids are derived, registers merge; with the same `X-Percolate-As-Of` it overtakes nothing newer). A write with a condition cannot: if the first one was done, the second is refused with `PRECONDITION_FAILED`; read, and decide. The client in `client/` calls all of these `UNREACHABLE`, and does so.',
  '',
  '| what a client sees, without a code | where from |',
  '|---|---|',
  '| HTTP 502, 503, 504 with a body that is no problem; a connection that closes before or in the middle of an answer | a router has no node that answers, or lost the one that did |',
  '| UNAVAILABLE | there is no connection, or it went (`Connection dropped`); a router has no node (`Received HTTP status code 503`), or lost it before it took the call (`Stream refused`). When no initial metadata came, nothing was done |',
  '| INTERNAL, `Received RST_STREAM with code …` (with code 0: `Call ended without gRPC status`) | the node was lost after its initial metadata, which come before a write is begun, and with the beginning of what is read. A router cannot say so in words of gRPC: HAProxy ends the stream as if it were whole (code 0), others reset it. It is no defect of Percolate: that has `percolate-code: INTERNAL` |',
  '| CANCELLED, and the client did not cancel | the same while the client still sends; a connection that its server cut |',
  '| RESOURCE_EXHAUSTED, `Bandwidth exhausted …` (behind a router: INTERNAL, code 0) | a call whose reader took nothing for too long, and not even what was on its way in up to 5 s more: behind that a stream carries the code (`READER_STALLED`); or more than 128 pairs of metadata |',
  '| RESOURCE_EXHAUSTED, `Received message larger than max` | the client takes no answer of that size; with long contents raise its limit (`grpc.max_receive_message_length`) above 4 MiB |',
  '| DEADLINE_EXCEEDED | the clock of the client itself |',
  '',
  'Metadata of a call should stay below 8 KiB: HAProxy takes 15 KiB, and ends the whole connection, with all of its calls, for more (INTERNAL, `Received RST_STREAM with code 1` or `2`). A deadline more than 24 days ahead is taken for one that has passed; leave it out instead.',
  '',
]

/** `docs/errors.md`, from the error table. */
export function errorsMarkdown(): string {
  const rows = (Object.entries(errorTable) as [ErrorCode, ErrorSpec][]).map(
    ([code, { http, grpc, retry, doc }]) =>
      `| \`${code}\` | ${http} | ${grpcNames.get(grpc)} | ${retryWords[retry]} | ${doc} |`,
  )
  return [
    '# Errors',
    '',
    'Generated from `src/base/errors.ts` by `npm run docs`. HTTP errors are RFC 9457 problem details (`application/problem+json`) with a stable `code`, a `detail` for people, the `field` at fault where there is one, and the `request_id` under which the log has more. gRPC errors carry the code in the trailing metadata `percolate-code`, the field in `percolate-field`, and further members (`cursor`, `bookmark`, `durability`) in `percolate-…`; `bookmark` and `durability` are also in `X-Percolate-Bookmark` and `X-Percolate-Durability`, in both protocols.',
    '',
    'Two things of gRPC are answered by its library before there is a call, without `percolate-code`: a method or service that does not exist (UNIMPLEMENTED), and another content type than `application/grpc` (HTTP 415). A message compressed by a method that is not offered gets UNIMPLEMENTED, as gRPC wants it. Of HTTP, Node answers a request without `Host` (400) by an empty answer.',
    '',
    ...LOST,
    '## Codes',
    '',
    '| code | HTTP | gRPC | try again? | meaning |',
    '|---|---|---|---|---|',
    ...rows,
    '',
  ].join('\n')
}
