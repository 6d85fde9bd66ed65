import type { Random } from '../sim/world.ts'
import { FUZZED_TENANTS } from './tenants.ts'

/** Requests of a connection, one behind the other. */
const PIPELINED_MAX = 6
const MANY_PIPELINED_MAX = 60
const LONG_CHARS = 20_000

const METHODS = [
  'GET',
  'GET',
  'POST',
  'POST',
  'PUT',
  'DELETE',
  'HEAD',
  'OPTIONS',
  'PATCH',
  'TRACE',
  'CONNECT',
  'PRI',
  'get',
]
const PATHS = [
  '/api/v1/resources',
  '/api/v1/resources',
  '/api/v1/resources/search',
  '/api/v1/resources/x',
  '/api/v1/resources?query=%ff&limit=-1',
  '/api/v1/entities',
  '/api/v1/entities/x',
  '/api/v1/entities/%00',
  '/api/v1/entities/..%2f..%2fetc',
  '/api/v1/moments',
  '/api/v1/chat',
  '/api/v1/changes?cursor=earliest',
  '/api/v1/changes',
  '/api/v1/replication',
  '/upload',
  '/upload?wait=1s',
  '/jobs',
  '/jobs/x',
  '/health',
  '/ready',
  '/metrics',
  '/openapi.json',
  '/docs/../../../../etc/passwd',
  '/../../etc/passwd',
  '//',
  '*',
  'http://x/y',
  `/${'a'.repeat(LONG_CHARS)}`,
]
const HEADERS: readonly string[] = [
  'Content-Type: application/json',
  'Content-Type: application/json',
  'Content-Type: text/nothing',
  'Content-Type: multipart/form-data; boundary=QQ',
  'Content-Type: multipart/form-data',
  'Connection: close',
  'Connection: keep-alive',
  'Connection: Upgrade',
  'Connection: x-tenant-id, content-length',
  'Upgrade: h2c',
  'Upgrade: websocket',
  'Expect: 100-continue',
  'Expect: something',
  'If-Match: "a"',
  'If-None-Match: *',
  'Accept: text/event-stream',
  'Last-Event-ID: zz',
  'X-Percolate-Bookmark: zz',
  'X-Percolate-As-Of: 1',
  'X-Percolate-Durability: replicated',
  'X-Percolate-Forwarded-By: node-2',
  'X-Tenant-ID: \xff',
  'X-Tenant-ID: ../x',
  'Trailer: x',
  'Range: bytes=0-',
  'Folded: a\r\n b',
  'NoColon',
  ': empty',
  `Long: ${'z'.repeat(LONG_CHARS)}`,
]
const BODIES = [
  '{"resources":[{"content":"a note of nobody"}]}',
  '{"entities":[{"id":"x","type":"n"}]}',
  '{"moments":[{}]}',
  '{"query":"note"}',
  '{}',
  '[]',
  'null',
  '{"resources":[{"content":"half',
  '{"__proto__":{"x":1}}',
  '{"a":1}{"b":2}',
  '\0\0',
  `${'['.repeat(5000)}`,
  '--QQ\r\ncontent-disposition: form-data; name="file"; filename="a.txt"\r\n\r\nx\r\n--QQ--\r\n',
  '--QQ\r\ncontent-disposition: form-data; name="file"; filename="../a"\r\n\r\nx',
]

/** How long a body is said to be, and the body: as it is, or otherwise. */
function framing(random: Random, body: string): readonly [headers: readonly string[], body: string] {
  const chunk = `${body.length.toString(16)}\r\n${body}\r\n`
  const chunked = 'Transfer-Encoding: chunked'
  switch (random.int(0, 15)) {
    case 0:
      return [[], '']
    case 1:
    case 2:
    case 3:
      return [[`Content-Length: ${body.length}`], body]
    case 4:
      return [[chunked], `${chunk}0\r\n\r\n`]
    case 5:
      return [[chunked], '']
    case 6:
      return [[chunked], chunk.slice(0, random.int(0, chunk.length))]
    case 7:
      return [
        [chunked],
        `${random.chance(0.5) ? chunk : ''}${random.pick(['zz\r\n', 'ffffffffffffffffff\r\n', '-1\r\n', '5;x="\r\n'])}`,
      ]
    case 8:
      return [[chunked], `${chunk}0\r\nX-Trailer: ${'y'.repeat(random.pick([1, LONG_CHARS]))}\r\n\r\n`]
    case 9:
      return [[`Content-Length: ${body.length + random.int(1, 1000)}`], body]
    case 10:
      return [[`Content-Length: ${random.pick(['-1', '1e3', '9'.repeat(30), '', '+1', '0x10'])}`], body]
    case 11:
      return [[`Content-Length: ${body.length}`, `Content-Length: ${body.length + random.int(0, 1)}`], body]
    case 12:
      return [[`Content-Length: ${body.length}`, chunked], `${chunk}0\r\n\r\n`]
    case 13:
      return [
        [
          `Transfer-Encoding: ${random.pick(['gzip, chunked', 'chunked, gzip', 'Chunked', 'xchunked', 'chunked, chunked'])}`,
        ],
        chunk,
      ]
    case 14:
      return [[`Content-Length: ${random.pick([100_000_000, 2_000_000])}`], body]
    default:
      return [[`Content-Length: ${Math.floor(body.length / 2)}`], body]
  }
}

function request(random: Random): string {
  const [framed, body] = framing(random, random.pick(BODIES))
  const headers = ['Host: x', ...framed]
  if (random.chance(0.9)) headers.push(`X-Tenant-ID: ${random.pick(FUZZED_TENANTS)}`)
  for (let n = random.int(0, 3); n > 0; n--) headers.push(random.pick(HEADERS))
  if (random.chance(0.03)) headers.push(...Array.from({ length: 3000 }, (_, n) => `X-${n}: y`))
  const version = random.chance(0.95) ? '1.1' : random.pick(['1.0', '2.0', '0.9', 'x'])
  return `${random.pick(METHODS)} ${random.pick(PATHS)} HTTP/${version}\r\n${headers.join('\r\n')}\r\n\r\n${body}`
}

/** What one client sends to a port of HTTP/1.1: requests one behind the other, whose bodies are said to be other than they are, and heads that no client makes. */
export function httpBytes(random: Random): Buffer {
  const requests = random.chance(0.05) ? random.int(PIPELINED_MAX, MANY_PIPELINED_MAX) : random.int(1, PIPELINED_MAX)
  // Half of all send one: what is wrong with the first ends the connection before the others are looked at.
  const count = random.chance(0.5) ? 1 : requests
  let bytes = Buffer.from(Array.from({ length: count }, () => request(random)).join(''), 'latin1')
  if (random.chance(0.1)) bytes[random.int(0, bytes.length - 1)] = random.int(0, 255)
  if (random.chance(0.2)) bytes = bytes.subarray(0, random.int(0, bytes.length))
  return bytes
}
