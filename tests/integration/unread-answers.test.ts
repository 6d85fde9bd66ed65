import { connect as connectHttp2, type IncomingHttpHeaders } from 'node:http2'
import { connect, type Socket } from 'node:net'
import { afterEach, beforeAll, expect, it } from 'vitest'
import { eventually, startFileNode } from '../support/running.ts'

/** Clients that ask and do not read: what is made for them is bounded, in all and for one tenant, and others are answered beside them. */

const MIB = 1024 * 1024
const CALLS_MAX = 8
const node = await startFileNode({
  env: {
    PERCOLATE_HELD_ANSWER_BYTES_MAX: String(16 * MIB),
    PERCOLATE_GRPC_CALLS_MAX: String(CALLS_MAX),
    PERCOLATE_READER_STALL_MS: '3000',
  },
})
const open: (() => void)[] = []
afterEach(async () => {
  for (const close of open.splice(0)) close()
  await eventually('nothing is held', async () => (await gauge('percolate_held_answer_bytes')) === 0)
  await eventually('no call is open', async () => (await gauge('percolate_grpc_calls')) === 0)
})
beforeAll(async () => {
  const content = 'words '.repeat(10_000)
  for (const tenant of ['acme', 'globex'])
    for (let batch = 0; batch < 5; batch++) {
      const resources = Array.from({ length: 15 }, (_, n) => ({ uri: `u:${batch}-${n}`, content }))
      const answer = await node.request('POST', '/api/v1/resources', { tenant, body: { resources } })
      expect(answer.status).toBe(201)
      ids.set(tenant, answer.body.ids[0])
    }
})
const ids = new Map<string, string>()
const idOf = (tenant: string): Buffer => {
  const id = Buffer.from(ids.get(tenant)!)
  return frame(Buffer.concat([Buffer.from([0x0a, id.length]), id]))
}

async function gauge(name: string): Promise<number> {
  const page = await (await fetch(`${node.url}/metrics`)).text()
  return Number(new RegExp(`^${name} (\\d+)`, 'm').exec(page)?.[1] ?? Number.NaN)
}

/** Some 4 MiB, all at once. */
const LARGE = '/api/v1/resources?limit=1000'
function askAndNotRead(tenant: string): Socket {
  const socket = connect(node.httpPort, '127.0.0.1')
  socket.on('error', () => {})
  socket.pause()
  socket.write(`GET ${LARGE} HTTP/1.1\r\nHost: x\r\nX-Tenant-ID: ${tenant}\r\n\r\n`.repeat(2))
  open.push(() => socket.destroy())
  return socket
}

it('by HTTP: one tenant has half of the room, large answers beyond it are refused, small ones and those of others are not', async () => {
  // The system takes the first answer of a connection off our hands, or most of it.
  const sockets = Array.from({ length: 40 }, () => askAndNotRead('acme'))
  await eventually('they are refused', async () => (await gauge('percolate_held_answers_refused_total')) > 0)
  expect(await gauge('percolate_held_answer_bytes')).toBeLessThanOrEqual(8 * MIB)
  const refused = await eventually('the next is refused', async () => {
    const answer = await node.request('GET', LARGE, { tenant: 'acme' })
    return answer.status === 503 && answer
  })
  expect(refused.body).toMatchObject({
    code: 'TOO_BUSY',
    detail: expect.stringMatching(/of this tenant.*PERCOLATE_HELD_ANSWER_BYTES_MAX/),
  })
  expect(refused.headers.get('retry-after')).toBe('1')
  expect((await node.request('GET', '/api/v1/resources?limit=1', { tenant: 'acme' })).status).toBe(200)
  expect((await node.request('GET', LARGE, { tenant: 'globex' })).status).toBe(200)
  for (const socket of sockets) socket.destroy()
  await eventually('there is room again', async () => (await gauge('percolate_held_answer_bytes')) === 0)
  expect((await node.request('GET', LARGE, { tenant: 'acme' })).status).toBe(200)
})

const frame = (message: Buffer): Buffer => {
  const head = Buffer.alloc(5)
  head.writeUInt32BE(message.length, 1)
  return Buffer.concat([head, message])
}
/** A connection whose client takes nothing of an answer before `windowBytes` says so. */
function session(windowBytes = 0) {
  const opened = connectHttp2(`http://127.0.0.1:${node.grpcPort}`, { settings: { initialWindowSize: windowBytes } })
  opened.on('error', () => {})
  open.push(() => opened.destroy())
  return opened
}
function begin(on: ReturnType<typeof session>, path: string, tenant = 'acme') {
  const call = on.request({
    ':method': 'POST',
    ':path': path,
    'content-type': 'application/grpc',
    te: 'trailers',
    'x-tenant-id': tenant,
  })
  let seen: IncomingHttpHeaders = {}
  for (const event of ['response', 'trailers'])
    call.on(event, (given: IncomingHttpHeaders) => {
      seen = { ...seen, ...given }
    })
  call.on('error', () => {})
  const closed = new Promise<void>(resolve => call.once('close', resolve))
  return { call, closed, seen: () => seen, code: () => seen['percolate-code'] }
}

it('by gRPC: one tenant has half of the calls, and more are refused before anything of them is done', async () => {
  const unread = session()
  const begun = Array.from({ length: CALLS_MAX }, () => {
    const one = begin(unread, '/percolate.v1.Rem/GetResource')
    one.call.end(idOf('acme'))
    return one
  })
  const refused = () => begun.filter(({ code }) => code() === 'TOO_BUSY')
  await eventually('half of them are refused', async () => refused().length === CALLS_MAX / 2)
  expect(refused()[0]!.seen()).toMatchObject({ 'grpc-status': '14', 'retry-after': '1' })
  expect(decodeURIComponent(String(refused()[0]!.seen()['grpc-message']))).toMatch(/PERCOLATE_GRPC_CALLS_MAX/)
  expect(await gauge('percolate_grpc_calls')).toBe(CALLS_MAX / 2)
  const other = begin(session(65_535), '/percolate.v1.Rem/GetResource', 'globex')
  other.call.resume().end(idOf('globex'))
  await other.closed
  expect(other.seen()['grpc-status']).toBe('0')
})

it('by gRPC: calls of strangers that never come whole keep nobody out', async () => {
  const strange = session(65_535)
  const begun = Array.from({ length: CALLS_MAX }, (_, n) => {
    const one = begin(strange, `/percolate.v1.Rem/${n % 2 ? 'GetResource' : 'WriteResources'}`, `stranger-${n}`)
    // A call of one message has not come whole before its client has ended its side.
    if (n % 2) one.call.write(idOf('acme'))
    else one.call.write(Buffer.alloc(1))
    return one
  })
  await eventually('they have all places', async () => (await gauge('percolate_grpc_calls')) === CALLS_MAX)
  await eventually('others are answered', async () => {
    const other = begin(session(65_535), '/percolate.v1.Rem/GetResource')
    other.call.resume().end(idOf('acme'))
    await other.closed
    return other.seen()['grpc-status'] === '0'
  })
  const gone = () => begun.filter(({ code }) => code() === 'TOO_BUSY')
  await eventually('one has made way', async () => gone().length > 0)
  expect(decodeURIComponent(String(gone()[0]!.seen()['grpc-message']))).toMatch(/did not come whole/)
  for (const { call } of begun) call.close()
})

it('by gRPC: what streams and calls have at hand for their clients is counted, and refused when there is no room', async () => {
  // Without any window there is no end of a stream that has begun either.
  const unread = session(1)
  const begun = Array.from({ length: CALLS_MAX / 2 }, () => {
    const one = begin(unread, '/percolate.v1.Rem/ListResources')
    one.call.end(frame(Buffer.alloc(0)))
    return one
  })
  await eventually('some are refused', async () => begun.some(({ code }) => code() === 'TOO_BUSY'))
  expect(await gauge('percolate_held_answer_bytes')).toBeGreaterThan(4 * MIB)
  expect(await gauge('percolate_held_answer_bytes')).toBeLessThanOrEqual(8 * MIB)
})

it('by gRPC: a call whose client takes not even its error does not stay', async () => {
  const { call, closed } = begin(session(), '/percolate.v1.Rem/ListResources')
  call.end(frame(Buffer.from([0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01])))
  await closed
  expect(call.rstCode).not.toBe(0)
})

it('server reflection reads on only when its answers are taken, and is cut off when nobody takes them', async () => {
  const { call, closed } = begin(session(), '/grpc.reflection.v1.ServerReflection/ServerReflectionInfo')
  const questions = Buffer.concat(
    Array.from({ length: 1000 }, () =>
      frame(Buffer.concat([Buffer.from([0x22, 16]), Buffer.from('percolate.v1.Rem')])),
    ),
  )
  let taken = 0
  const ask = () => {
    if (!call.destroyed)
      call.write(questions, () => {
        taken += questions.length
        ask()
      })
  }
  ask()
  await closed
  // What HTTP/2 takes ahead: a window of 64 KiB, and what the client holds itself.
  expect(taken).toBeLessThan(MIB)
})

it('a gRPC reader that was too slow is told so, when it takes what was on its way after all', async () => {
  const { call, seen, closed } = begin(session(), '/percolate.v1.Rem/ListResources')
  call.end(frame(Buffer.alloc(0)))
  call.resume()
  const stalled = async () =>
    /code="READER_STALLED"\} ([1-9]\d*)/.exec(await (await fetch(`${node.url}/metrics`)).text())?.[1]
  const before = await stalled()
  await eventually('the node gives it up', async () => (await stalled()) !== before)
  call.session!.settings({ initialWindowSize: MIB })
  await closed
  expect(seen()).toMatchObject({ 'grpc-status': '8', 'percolate-code': 'READER_STALLED' })
})
