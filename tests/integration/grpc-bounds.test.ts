import { type ClientHttp2Stream, connect as connectHttp2, type IncomingHttpHeaders } from 'node:http2'
import { gzipSync } from 'node:zlib'
import { afterEach, expect, it } from 'vitest'
import { startFileNode } from '../support/running.ts'

/** What one client may make a node do by gRPC with little of its own. */

const node = await startFileNode({ env: { PERCOLATE_REQUEST_READ_MS: '1000' } })
const open: (() => void)[] = []
afterEach(() => {
  for (const close of open.splice(0)) close()
})

const frame = (message: Buffer, flag = 0): Buffer => {
  const head = Buffer.alloc(5)
  head.writeUInt8(flag, 0)
  head.writeUInt32BE(message.length, 1)
  return Buffer.concat([head, message])
}
const varint = (value: number): number[] => (value > 127 ? [(value & 127) | 128, ...varint(value >>> 7)] : [value])
const field = (number: number, content: Buffer): Buffer =>
  Buffer.concat([Buffer.from([(number << 3) | 2, ...varint(content.length)]), content])
const repeated = (bytes: string, times: number): Buffer => Buffer.alloc(times * (bytes.length / 2), bytes, 'hex')

interface Begun {
  readonly call: ClientHttp2Stream
  readonly ended: Promise<{ status: string; code: string; field: string; detail: string }>
}
function begin(method: string, headers: Record<string, string> = {}): Begun {
  const session = connectHttp2(`http://127.0.0.1:${node.grpcPort}`)
  open.push(() => session.destroy())
  const call = session.request({
    ':method': 'POST',
    ':path': `/percolate.v1.${method}`,
    'content-type': 'application/grpc',
    te: 'trailers',
    'x-tenant-id': 'acme',
    ...headers,
  })
  let seen: IncomingHttpHeaders = {}
  for (const event of ['response', 'trailers'])
    call.on(event, (given: IncomingHttpHeaders) => {
      seen = { ...seen, ...given }
    })
  const of = (name: string) => decodeURIComponent(String(seen[name] ?? ''))
  call.on('error', () => {})
  call.resume()
  const result = () => ({
    status: of('grpc-status'),
    code: of('percolate-code'),
    field: of('percolate-field'),
    detail: of('grpc-message'),
  })
  return { call, ended: new Promise(resolve => call.once('end', () => setImmediate(() => resolve(result())))) }
}
const ask = (method: string, body: Buffer, headers: Record<string, string> = {}) => {
  const { call, ended } = begin(method, headers)
  call.end(body)
  return ended
}
const held = async () =>
  Number(/^percolate_held_body_bytes (\d+)/m.exec(await (await fetch(`${node.url}/metrics`)).text())![1])

const struct = (bytes: Buffer) =>
  field(6, field(1, Buffer.concat([field(1, Buffer.from('a')), field(2, field(6, bytes))])))
it.each([
  ['resources', 'Rem/PutResources', repeated('0a00', 2_000_000), 'resources', /more than 1000 items/],
  ['resources in another form', 'Rem/PutResources', repeated('0800', 2_000_000), 'message', /does not decode/],
  ['entities', 'Rem/PutEntities', repeated('0a00', 2_000_000), 'entities', /more than 1000 items/],
  ['moments', 'Rem/AppendMoments', repeated('0a00', 2_000_000), 'moments', /more than 1000 items/],
  ['edges', 'Rem/PutEntities', field(1, repeated('3a00', 1_500_000)), 'entities[0].edges', /more than 1000 items/],
  ['messages', 'Rem/Chat', repeated('0a00', 2_000_000), 'messages', /more than 100 items/],
  [
    'values of metadata',
    'Rem/PutResources',
    field(1, struct(repeated('0a00', 2_000_000))),
    'resources[0].metadata',
    /more values than a message of 250000/,
  ],
  ['of a stream', 'Rem/WriteResources', struct(repeated('0a00', 2_000_000)), 'metadata', /more values/],
])('nothing is made of a message with too many %s', async (_, method, message, name, detail) => {
  expect(await ask(method, frame(message))).toMatchObject({
    status: '3',
    code: name === 'message' ? 'REQUEST_MALFORMED' : 'INVALID_ARGUMENT',
    field: name,
    detail: expect.stringMatching(detail),
  })
  await expect.poll(held).toBe(0)
})

it('what a call has sent is counted while it comes, and no longer when its client has gone', async () => {
  const resource = field(1, field(1, Buffer.from('words '.repeat(20_000))))
  for (const [method, message] of [
    ['Rem/PutResources', resource],
    ['Rem/WriteResources', resource.subarray(4)],
  ] as const) {
    const whole = frame(message)
    const { call } = begin(method)
    call.write(whole.subarray(0, 100_000))
    await expect.poll(held).toBe(100_000)
    call.destroy()
    await expect.poll(held).toBe(0)
    // Whole, and its end is not said.
    if (method === 'Rem/WriteResources') continue
    const waiting = begin(method)
    waiting.call.write(whole)
    await expect.poll(held).toBe(whole.length)
    waiting.call.destroy()
    await expect.poll(held).toBe(0)
  }
  expect(await ask('Rem/PutResources', frame(resource))).toMatchObject({ status: '0' })
  expect(await held()).toBe(0)
})

it('what a service that reads by itself has got is counted no more, however long its stream stays open', async () => {
  const asking = begin('x', { ':path': '/grpc.reflection.v1.ServerReflection/ServerReflectionInfo' })
  const question = frame(field(3, Buffer.alloc(50_000, 'a')))
  let answered = 0
  asking.call.on('data', (data: Buffer) => (answered += data.length))
  for (let n = 0; n < 20; n++) asking.call.write(question)
  await expect.poll(() => answered).toBeGreaterThan(20 * 50_000)
  await expect.poll(held).toBe(0)
  asking.call.write(question.subarray(0, 1000))
  await expect.poll(held).toBe(1000)
  asking.call.end(question.subarray(1000))
  expect(await asking.ended).toMatchObject({ status: '0' })
  await expect.poll(held).toBe(0)
})

it('nothing compressed is inflated: the call is refused as it begins', async () => {
  for (const encoding of ['gzip', 'deflate', 'br']) {
    const { call, ended } = begin('Rem/PutResources', { 'grpc-encoding': encoding })
    call.write(frame(gzipSync(repeated('0a00', 2_000_000)), 1))
    expect(await ended).toMatchObject({ status: '12', code: 'COMPRESSION_UNSUPPORTED', field: 'grpc-encoding' })
    await new Promise<void>(resolve => (call.closed ? resolve() : call.once('close', resolve)))
  }
})

it('a call that does not come to its end is ended: a head alone, a part of a message, a message without the end of its side, a part of a message in a stream', async () => {
  const message = frame(field(1, Buffer.from('a')))
  const late = { status: '4', code: 'REQUEST_TIMEOUT', detail: expect.stringMatching(/PERCOLATE_REQUEST_READ_MS/) }
  const calls = [
    ['Rem/GetResource', Buffer.alloc(0)],
    ['Rem/ListResources', message.subarray(0, 6)],
    ['Rem/GetResource', message],
    ['Rem/WriteResources', message.subarray(0, 6)],
  ] as const
  const begun = calls.map(([method, sent]) => {
    const { call, ended } = begin(method)
    call.write(sent)
    return { ended, closed: new Promise<void>(resolve => call.once('close', resolve)) }
  })
  // A stream may wait with its next message.
  const silent = begin('Rem/WriteResources')
  silent.call.write(message)
  for (const [n, { ended, closed }] of begun.entries()) {
    expect([calls[n]![0], await ended]).toEqual([calls[n]![0], expect.objectContaining(late)])
    await closed
  }
  silent.call.end(frame(field(1, Buffer.from('more'))))
  expect(await silent.ended).toMatchObject({ status: '0' })
})

it('a message in hundreds of DATA frames of one byte is refused, in fewer it is taken', {
  timeout: 20_000,
}, async () => {
  const message = frame(field(1, field(2, Buffer.alloc(400, 'x'))))
  const inFrames = async (bytes: number) => {
    const { call, ended } = begin('Rem/PutResources')
    for (let at = 0; at < message.length && !call.closed; at += bytes) {
      call.write(message.subarray(at, at + bytes))
      await new Promise(setImmediate)
    }
    if (!call.closed) call.end()
    return ended
  }
  expect(await inFrames(1)).toMatchObject({ status: '3', code: 'REQUEST_MALFORMED', field: 'message' })
  expect((await inFrames(2)).code).not.toBe('REQUEST_MALFORMED')
  await expect.poll(held).toBe(0)
})
