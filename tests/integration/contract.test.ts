import { connect as connectHttp2, type IncomingHttpHeaders } from 'node:http2'
import { connect } from 'node:net'
import { describe, expect, it } from 'vitest'
import { startFileNode } from '../support/running.ts'

/** What a framework refuses before our code sees it carries the same error contract as everything else. */

const node = await startFileNode()

/** Bytes as they are, and all that comes back. */
const raw = (port: number, sent: string | Buffer): Promise<string> =>
  new Promise((resolve, reject) => {
    let answer = ''
    connect({ port, host: '127.0.0.1' }, function (this: import('node:net').Socket) {
      this.write(sent)
    })
      .on('data', data => {
        answer += data
      })
      .on('close', () => resolve(answer))
      .on('error', reject)
  })

describe('over HTTP', () => {
  const refused = async (sent: string | Buffer) => {
    const answer = await raw(node.httpPort, sent)
    const [head = '', body = ''] = answer.split('\r\n\r\n')
    expect(head).toMatch(/content-type: application\/problem\+json/)
    const problem = JSON.parse(body)
    expect(head).toMatch(new RegExp(`^HTTP/1.1 ${problem.status} `))
    return problem
  }

  it('a method that is none, what is no HTTP, and too many headers get a problem with a code and a remedy', async () => {
    expect(await refused('FOO / HTTP/1.1\r\nHost: x\r\n\r\n')).toMatchObject({
      status: 400,
      code: 'REQUEST_MALFORMED',
      field: 'method',
      detail: expect.stringMatching(/use GET/),
    })
    expect(await refused('GET / HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n')).toMatchObject({
      code: 'REQUEST_MALFORMED',
    })
    expect(await refused(`GET / HTTP/1.1\r\nHost: x\r\nX-Long: ${'x'.repeat(17_000)}\r\n\r\n`)).toMatchObject({
      status: 431,
      code: 'HEADERS_TOO_LARGE',
      detail: expect.stringMatching(/16 KiB/),
    })
  })

  it('text that is no UTF-8 is refused: different bytes never become the same id', async () => {
    const head =
      'POST /api/v1/entities HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Tenant-ID: acme\r\nContent-Type: application/json\r\n'
    const body = Buffer.from('{"id":"\xff"}', 'latin1')
    const sent = Buffer.concat([Buffer.from(`${head}Content-Length: ${body.length}\r\n\r\n`), body])
    expect(await refused(sent)).toMatchObject({ status: 400, code: 'INVALID_JSON', field: 'body' })
    expect((await node.request('POST', '/api/v1/entities', { body: { id: 'café \ufffd' } })).status).toBe(201)
  })
})

describe('over gRPC', () => {
  const frame = (message: Buffer, flag = 0): Buffer => {
    const head = Buffer.alloc(5)
    head.writeUInt8(flag, 0)
    head.writeUInt32BE(message.length, 1)
    return Buffer.concat([head, message])
  }
  const varint = (value: number): number[] => (value > 127 ? [(value & 127) | 128, ...varint(value >>> 7)] : [value])
  const field = (number: number, content: Buffer): Buffer =>
    Buffer.concat([Buffer.from([(number << 3) | 2, ...varint(content.length)]), content])
  /** google.protobuf.Struct, so many levels deep. */
  const deep = (levels: number): Buffer => {
    let value = field(3, Buffer.from('x'))
    const entry = (inner: Buffer) => field(1, Buffer.concat([field(1, Buffer.from('a')), field(2, inner)]))
    for (let n = 0; n < levels; n++) value = field(5, entry(value))
    return entry(value)
  }
  const entity = (id: Buffer): Buffer => field(1, field(1, id))

  async function call(method: string, body: Buffer, headers: Record<string, string> = {}) {
    const session = connectHttp2(`http://127.0.0.1:${node.grpcPort}`)
    try {
      return await new Promise<{ status: string; code: string; field: string; detail: string }>((resolve, reject) => {
        const request = session.request({
          ':method': 'POST',
          ':path': `/percolate.v1.Rem/${method}`,
          'content-type': 'application/grpc',
          te: 'trailers',
          'x-tenant-id': 'acme',
          ...headers,
        })
        let seen: IncomingHttpHeaders = {}
        for (const event of ['response', 'trailers'])
          request.on(event, (given: IncomingHttpHeaders) => {
            seen = { ...seen, ...given }
          })
        const of = (name: string) => decodeURIComponent(String(seen[name] ?? ''))
        request.on('close', () =>
          resolve({
            status: of('grpc-status'),
            code: of('percolate-code'),
            field: of('percolate-field'),
            detail: of('grpc-message'),
          }),
        )
        request.on('error', reject)
        request.resume()
        request.end(body)
      })
    } finally {
      session.close()
    }
  }

  it('what grpc-js refuses by itself has a status that blames the caller, and a code', async () => {
    const get = frame(field(1, Buffer.from('a')))
    const deepResource = (levels: number) =>
      frame(field(1, Buffer.concat([field(1, Buffer.from('c')), field(6, deep(levels))])))
    const MALFORMED = ['3', 'REQUEST_MALFORMED', 'message']
    for (const [what, method, body, headers, wanted] of [
      ['garbage', 'PutResources', frame(Buffer.from([0xff, 0xff, 0xff, 0xff])), {}, MALFORMED],
      ['a flag without compression', 'PutResources', frame(Buffer.from('x'), 1), {}, MALFORMED],
      [
        'gzip',
        'PutResources',
        frame(Buffer.from('x'), 1),
        { 'grpc-encoding': 'gzip' },
        ['12', 'COMPRESSION_UNSUPPORTED', 'grpc-encoding'],
      ],
      ['no time', 'GetEntity', get, { 'grpc-timeout': 'zz' }, ['3', 'INVALID_ARGUMENT', 'grpc-timeout']],
      [
        'levels that are refused',
        'PutResources',
        deepResource(20),
        {},
        ['3', 'INVALID_ARGUMENT', `metadata${'.a'.repeat(16)}`],
      ],
      ['levels that do not decode', 'PutResources', deepResource(1000), {}, MALFORMED],
      ['the same in a stream', 'WriteResources', frame(field(6, deep(1000))), {}, MALFORMED],
      ['no message', 'GetEntity', Buffer.alloc(0), {}, MALFORMED],
      ['two messages', 'GetEntity', Buffer.concat([get, get]), {}, MALFORMED],
      ['no message for a stream of answers', 'FindEntities', Buffer.alloc(0), {}, MALFORMED],
      ['too much', 'PutResources', frame(Buffer.alloc(5_000_000)), {}, ['8', 'BODY_TOO_LARGE', '']],
    ] as const) {
      const { status, code, field, detail } = await call(method, body, headers)
      expect([what, status, code, field]).toEqual([what, ...wanted])
      expect(detail.length).toBeGreaterThan(30)
    }
    // Also after all that, and in an empty message.
    expect((await call('FindEntities', frame(Buffer.alloc(0)))).status).toBe('0')
  })

  it('text that is no UTF-8 is refused wherever it stands; U+FFFD itself is text', async () => {
    for (const byte of [0xff, 0xfe])
      expect(await call('PutEntities', frame(entity(Buffer.from([byte]))))).toMatchObject({
        status: '3',
        code: 'REQUEST_MALFORMED',
        field: 'id',
      })
    const metadata = field(1, Buffer.concat([field(1, Buffer.from([0xff])), field(2, field(3, Buffer.from('x')))]))
    const resource = Buffer.concat([field(1, Buffer.from('c')), field(6, metadata)])
    expect(await call('PutResources', frame(field(1, resource)))).toMatchObject({ status: '3', field: 'key' })
    expect((await call('PutEntities', frame(entity(Buffer.from('\ufffd'))))).status).toBe('0')
    expect((await node.request('GET', '/api/v1/entities/%EF%BF%BD')).status).toBe(200)
  })
})
