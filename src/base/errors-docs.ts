import { type ErrorCode, type ErrorSpec, errorTable, grpcStatus } from './errors.ts'

const grpcNames = new Map<number, string>(Object.entries(grpcStatus).map(([name, code]) => [code, name]))
const retryWords = { never: 'no', later: 'yes, after a pause', fix: 'after a correction' }

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
    'Two things of gRPC are answered by its library before there is a call, without `percolate-code`: a method or service that does not exist (UNIMPLEMENTED), and another content type than `application/grpc` (HTTP 415). A message compressed by a method that is not offered gets UNIMPLEMENTED, as gRPC wants it. Of HTTP, Node answers a request without `Host` (400) and one with an unknown `Expect` (417) by an empty answer.',
    '',
    '| code | HTTP | gRPC | try again? | meaning |',
    '|---|---|---|---|---|',
    ...rows,
    '',
  ].join('\n')
}
