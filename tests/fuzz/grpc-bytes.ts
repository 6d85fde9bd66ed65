import type { Random } from '../sim/world.ts'
import {
  CONTINUATION,
  callHeaders,
  DATA,
  END_HEADERS,
  END_STREAM,
  frame,
  GOAWAY,
  HEADERS,
  literal,
  PADDED,
  PING,
  PREFACE,
  PRIORITY,
  RST_STREAM,
  SETTINGS,
  WINDOW_UPDATE,
} from '../support/http2-frames.ts'
import { FUZZED_TENANTS } from './tenants.ts'

/** Frames of a connection: mostly a few, now and then as many as a flood has. */
const FEW_MAX = 30
const MANY_MAX = 500
const FRAME_TYPES_MAX = 255
const STREAM_MAX = 0x7fff_ffff

const REM = [
  'PutResources',
  'WriteResources',
  'GetResource',
  'ListResources',
  'SearchResources',
  'PutEntities',
  'GetEntity',
  'DeleteEntity',
  'FindEntities',
  'TraverseEntities',
  'AppendMoments',
  'ListMoments',
  'Chat',
  'FollowChanges',
  'GetReplication',
].map(method => `/percolate.v1.Rem/${method}`)
const OTHERS = [
  '/percolate.v1.Peer/Status',
  '/percolate.v1.Peer/Transfer',
  '/grpc.health.v1.Health/Check',
  '/grpc.health.v1.Health/Watch',
  '/grpc.reflection.v1.ServerReflection/ServerReflectionInfo',
  '/no.Such/Method',
  '/percolate.v1.Rem/NoSuch',
  '/',
  'x',
]

const uint32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(value >>> 0)
  return bytes
}
/** A message as gRPC frames it: uncompressed, and its length. */
const message = (body: Buffer): Buffer => Buffer.concat([Buffer.from([0]), uint32(body.length), body])
/** A field of bytes of a message (https://protobuf.dev/programming-guides/encoding). */
const field = (number: number, body: Buffer): Buffer =>
  Buffer.concat([Buffer.from([(number << 3) | 2, body.length]), body])

const NOTE = field(1, Buffer.from('a note of nobody'))
const MESSAGES = [
  message(Buffer.alloc(0)),
  // An id, a cursor.
  message(field(1, Buffer.from('x'))),
  message(field(1, Buffer.from('earliest'))),
  // A resource, and a list of one.
  message(NOTE),
  message(field(1, NOTE)),
  // Not what it says: more fields than bytes, compressed, longer than what follows, longer than any may be, no whole head.
  message(Buffer.from([0x0a, 0x7f, 1])),
  Buffer.from([1, 0, 0, 0, 1, 0]),
  Buffer.from([0, 0, 0, 0, 9, 1, 2]),
  Buffer.from([0, 0xff, 0xff, 0xff, 0xff, 1]),
  Buffer.alloc(3),
]

/** Headers beside those that every call has, each of them now and then. */
const MORE: readonly (readonly [name: string, values: readonly string[]])[] = [
  ['grpc-timeout', ['1n', '0S', '1m', '20m', '99999999H', '-1S', 'soon']],
  ['grpc-encoding', ['gzip', 'identity', 'x']],
  ['x-percolate-bookmark', ['zz']],
  ['x-percolate-durability', ['local', 'stream', 'replicated', 'x']],
  ['x-percolate-peer', ['a:b']],
  ['authorization', ['Bearer of-nothing']],
  ['if-match', ['"a"', '*']],
  ['content-length', ['3', '-1']],
  ['connection', ['close']],
  ['expect', ['100-continue', 'x']],
  ['some-bin', ['!!!!', 'AA=A,,']],
  ['Upper', ['x']],
  [':foo', ['x']],
  [':method', ['GET']],
  [':path', ['/again']],
]

const isRare = 0.06

function head(random: Random): Buffer {
  if (random.chance(isRare)) return oddHead(random)
  const path = random.pick(random.chance(0.7) ? REM : OTHERS)
  const more: Record<string, string> = {}
  if (random.chance(0.85)) more['x-tenant-id'] = random.pick(FUZZED_TENANTS)
  for (const [name, values] of MORE) if (random.chance(isRare / 3)) more[name] = random.pick(values)
  // Those of the call come first: one that is there twice is behind the others.
  const { ':path': again, ...others } = more
  return Buffer.concat([callHeaders(path, others), ...(again === undefined ? [] : [literal(':path', again)])])
}

/** What no client's library makes of the headers of a call. */
function oddHead(random: Random): Buffer {
  switch (random.int(0, 7)) {
    case 0:
      return random.bytes(random.int(0, 60))
    // :method: GET, :scheme: http, :path: /
    case 1:
      return Buffer.from([0x82, 0x86, 0x84])
    case 2:
      return Buffer.from([0x83, 0x86])
    case 3:
      return Buffer.concat([literal(':method', 'CONNECT'), literal(':authority', 'x:1')])
    // No such entry of the table; a text that is no Huffman code.
    case 4:
      return Buffer.concat([callHeaders('/no.Such/Method'), Buffer.from([random.pick([0x80, 0xff])])])
    case 5:
      return Buffer.concat([callHeaders('/no.Such/Method'), Buffer.from([0, 0x81, 0xff, 0x81, 0xff])])
    // More than a list may have.
    case 6:
      return Buffer.concat([
        callHeaders('/no.Such/Method'),
        ...Array.from({ length: random.int(50, 200) }, () => literal('cookie', 'a=b')),
      ])
    default:
      return callHeaders('/percolate.v1.Rem/GetEntity').subarray(0, random.int(1, 30))
  }
}

/** A call: its head in one frame or in many, its messages in any parts, padded or not, and what its client thinks better of. */
function call(random: Random, id: number): Buffer[] {
  const frames: Buffer[] = []
  const block = head(random)
  const endsAtOnce = random.chance(0.1)
  const ends = endsAtOnce ? END_STREAM : 0
  if (random.chance(0.2)) {
    const parts = random.chance(0.1) ? random.int(10, 60) : random.int(1, 3)
    const size = Math.max(1, Math.floor(block.length / (parts + 1)))
    frames.push(frame(HEADERS, ends, id, block.subarray(0, size)))
    for (let n = 1; n < parts; n++) frames.push(frame(CONTINUATION, 0, id, block.subarray(n * size, (n + 1) * size)))
    const isWhole = !random.chance(isRare)
    frames.push(frame(CONTINUATION, isWhole ? END_HEADERS : 0, id, block.subarray(parts * size)))
  } else frames.push(frame(HEADERS, END_HEADERS | ends, id, block))
  const messages = endsAtOnce && !random.chance(isRare) ? 0 : random.int(0, random.chance(0.1) ? 20 : 2)
  for (let n = 0; n < messages; n++) {
    const body = random.chance(0.1) ? random.bytes(random.int(0, 40)) : random.pick(MESSAGES)
    const last = n === messages - 1 && random.chance(0.7) ? END_STREAM : 0
    const cut = random.chance(0.2) ? random.int(0, body.length) : 0
    if (cut > 0) frames.push(frame(DATA, 0, id, body.subarray(0, cut)))
    if (random.chance(0.1)) {
      const padding = random.int(0, 40)
      const says = random.chance(0.2) ? 255 : padding
      frames.push(
        frame(DATA, PADDED | last, id, Buffer.concat([Buffer.from([says]), body.subarray(cut), Buffer.alloc(padding)])),
      )
    } else frames.push(frame(DATA, last, id, body.subarray(cut)))
  }
  if (random.chance(0.05)) frames.push(frame(HEADERS, END_HEADERS | END_STREAM, id, literal('trailer', 'x')))
  if (random.chance(0.25)) frames.push(frame(RST_STREAM, 0, id, uint32(random.int(0, 14))))
  if (random.chance(isRare)) frames.push(frame(WINDOW_UPDATE, 0, id, uint32(random.pick([0, 1, 1000, STREAM_MAX]))))
  return frames
}

/** A frame that is about the connection, or about a stream that was or will be. */
function other(random: Random, next: number): Buffer {
  const some = (): number => (random.chance(0.1) ? random.int(0, STREAM_MAX) : random.int(0, next))
  switch (random.int(0, 11)) {
    case 0:
    case 1:
    case 2:
      return frame(PING, random.chance(0.2) ? 1 : 0, 0, random.bytes(random.chance(isRare) ? 5 : 8))
    case 3:
      return frame(WINDOW_UPDATE, 0, random.chance(0.5) ? 0 : some(), uint32(random.pick([1, 1000, 65_535])))
    case 4:
      return frame(WINDOW_UPDATE, 0, random.chance(0.5) ? 0 : some(), uint32(random.pick([0, STREAM_MAX])))
    case 5: {
      const key = Buffer.from([0, random.int(0, 9)])
      return frame(SETTINGS, random.chance(isRare) ? 1 : 0, 0, Buffer.concat([key, uint32(random.int(0, 70_000))]))
    }
    case 6:
      return frame(RST_STREAM, 0, some(), uint32(random.int(0, 14)))
    case 7:
      return frame(PRIORITY, 0, some(), random.bytes(random.chance(0.8) ? 5 : 4))
    case 8:
      return frame(
        GOAWAY,
        0,
        0,
        Buffer.concat([uint32(some()), uint32(random.int(0, 13)), random.bytes(random.int(0, 9))]),
      )
    case 9:
      return frame(random.int(0, FRAME_TYPES_MAX), random.int(0, 255), some(), random.bytes(random.int(0, 40)))
    case 10:
      return frame(
        random.pick([DATA, CONTINUATION, HEADERS]),
        random.pick([0, 1, 4, 5]),
        some(),
        random.bytes(random.int(0, 99)),
      )
    // Says another length than it has.
    default: {
      const wrong = frame(random.int(0, 10), random.int(0, 255), some(), random.bytes(random.int(0, 40)))
      wrong.writeUIntBE(random.pick([0, 1, 16_384, 16_385, 0xff_ffff]), 0, 3)
      return wrong
    }
  }
}

function preface(random: Random): Buffer {
  if (!random.chance(0.04)) return PREFACE
  return random.pick([
    PREFACE.subarray(0, random.int(0, PREFACE.length)),
    random.bytes(30),
    Buffer.from(
      'GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n\r\n',
    ),
    // A client hello of TLS.
    Buffer.concat([Buffer.from('16030100c8010000c40303', 'hex'), random.bytes(190)]),
  ])
}

/** A client whose every frame is as it should be, and that ends in the midst of its calls, or says with an error that it goes, and goes on: what is wrong with a frame would hide what is wrong with the order of them. */
function plainBytes(random: Random): Buffer {
  const parts: Buffer[] = [PREFACE]
  const calls = random.int(1, FEW_MAX)
  const leavesAt = random.chance(0.3) ? random.int(1, calls) : 0
  for (let n = 1; n <= calls; n++) {
    const id = 2 * n - 1
    const path = random.pick(random.chance(0.5) ? REM : OTHERS)
    parts.push(frame(HEADERS, END_HEADERS, id, callHeaders(path, { 'x-tenant-id': random.pick(FUZZED_TENANTS) })))
    if (random.chance(0.8)) parts.push(frame(DATA, END_STREAM, id, message(Buffer.alloc(0))))
    if (random.chance(0.3)) parts.push(frame(PING, 0, 0, Buffer.alloc(8)))
    if (random.chance(0.1)) parts.push(frame(RST_STREAM, 0, id, uint32(8)))
    if (n === leavesAt) parts.push(frame(GOAWAY, 0, 0, Buffer.concat([uint32(0), uint32(random.int(0, 13))])))
  }
  return Buffer.concat(parts)
}

/** What one client sends to a port of gRPC: frames that mostly make sense, each by itself and in their order, and now and then do not. */
export function grpcBytes(random: Random): Buffer {
  if (random.chance(0.5)) return plainBytes(random)
  const parts = [preface(random)]
  const frames = random.chance(0.05) ? random.int(FEW_MAX, MANY_MAX) : random.int(0, FEW_MAX)
  // Most clients make calls and nothing else: what is wrong with a connection ends it, and nothing behind that is looked at.
  const oddness = random.pick([0, 0, 0.05, 0.4])
  let next = 1
  for (let n = 0; n < frames; n++) {
    if (random.chance(oddness)) parts.push(other(random, next))
    else {
      parts.push(...call(random, next))
      next += random.chance(0.01) ? 1 : 2
    }
  }
  let bytes = Buffer.concat(parts)
  for (let flips = random.chance(0.1) ? random.int(1, 3) : 0; flips > 0 && bytes.length > PREFACE.length; flips--)
    bytes[random.int(PREFACE.length, bytes.length - 1)] = random.int(0, 255)
  if (random.chance(0.15)) bytes = bytes.subarray(0, random.int(0, bytes.length))
  return bytes
}
