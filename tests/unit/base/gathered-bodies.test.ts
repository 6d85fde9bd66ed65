import { createServer, type IncomingMessage } from 'node:http'
import { type AddressInfo, connect } from 'node:net'
import { text } from 'node:stream/consumers'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Gathered, gatherBodies } from '../../../src/base/gathered-bodies.ts'

const MIB = 1024 * 1024
const lengths = fc.array(
  fc.oneof(fc.integer({ min: 0, max: 10 }), fc.integer({ min: 1, max: 40_000 }), fc.constant(undefined)),
)

describe('chunks that are gathered', () => {
  it('have the same bytes, whatever they are and whenever what there is goes on', () => {
    fc.assert(
      fc.property(lengths, of => {
        const gathered = new Gathered()
        const chunks: Buffer[] = []
        const pieces: Buffer[] = []
        for (const [n, length] of of.entries()) {
          if (length === undefined) {
            pieces.push(...gathered.end())
            expect(gathered.held).toBe(0)
            continue
          }
          const chunk = Buffer.alloc(length, n)
          chunks.push(chunk)
          pieces.push(...gathered.add(chunk))
        }
        const heldBytes = gathered.held
        const rest = gathered.end()
        expect(Buffer.concat(rest)).toHaveLength(heldBytes)
        pieces.push(...rest)
        expect(Buffer.concat(pieces).equals(Buffer.concat(chunks))).toBe(true)
      }),
    )
  })

  it('are few pieces, none of which holds on to much more than it has', () => {
    const gathered = new Gathered()
    const pieces: Buffer[] = []
    for (let n = 0; n < MIB / 100; n++) pieces.push(...gathered.add(Buffer.alloc(100)))
    expect(pieces.length).toBeLessThan(100)
    pieces.push(...gathered.end())
    for (const bytes of [1, 2, 3]) {
      for (let n = 0; n < bytes; n++) gathered.add(Buffer.alloc(1))
      pieces.push(...gathered.end())
    }
    const rooms = new Set(pieces.map(({ buffer }) => buffer))
    const heldBytes = [...rooms].reduce((sum, { byteLength }) => sum + byteLength, 0)
    expect(heldBytes).toBeLessThan(2 * MIB)
    expect(gathered.isTiny).toBe(false)
  })

  it('are not tiny when each comes by itself', () => {
    const gathered = new Gathered()
    for (let n = 0; n < 10_000; n++) {
      gathered.add(Buffer.alloc(1))
      gathered.end()
    }
    expect(gathered.isTiny).toBe(false)
  })

  it('are tiny when there are many of a few bytes', () => {
    const tiny = (count: number, bytes: number) => {
      const gathered = new Gathered()
      for (let n = 0; n < count; n++) gathered.add(Buffer.alloc(bytes))
      return gathered.isTiny
    }
    expect(tiny(4000, 1)).toBe(false)
    expect(tiny(5000, 1)).toBe(true)
    expect(tiny(5000, 31)).toBe(true)
    expect(tiny(5000, 32)).toBe(false)
  })
})

describe('the body of a request', () => {
  const server = createServer(async (request, response) => {
    response.end(JSON.stringify(await (request.url === '/slow' ? slowly(request) : read(request))))
  })
  gatherBodies(server)
  beforeAll(() => new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve)))
  afterAll(() => server.close())

  const read = async (request: IncomingMessage) => {
    let [events, bytes] = [0, 0]
    request.on('data', (piece: Buffer) => {
      events++
      bytes += piece.length
    })
    return new Promise(resolve => {
      request.once('end', () => resolve({ events, bytes }))
      request.once('error', error => resolve({ error: error.message }))
    })
  }
  /** With back-pressure. */
  const slowly = async (request: IncomingMessage) => {
    let [events, bytes] = [0, 0]
    for await (const piece of request) {
      events++
      bytes += (piece as Buffer).length
      await new Promise(resolve => setTimeout(resolve, 1))
    }
    return { events, bytes }
  }
  const post = async (path: string, chunks: readonly string[]) => {
    const socket = connect((server.address() as AddressInfo).port, '127.0.0.1')
    const body = chunks.map(chunk => `${chunk.length.toString(16)}\r\n${chunk}\r\n`).join('')
    socket.write(
      `POST ${path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n${body}0\r\n\r\n`,
    )
    return JSON.parse((await text(socket)).split('\r\n\r\n')[1]!)
  }

  it.each(['/', '/slow'])('in many chunks comes in few pieces (%s)', async path => {
    const chunks = Array.from({ length: 20_000 }, () => 'x'.repeat(72))
    const { events, bytes } = await post(path, chunks)
    expect(bytes).toBe(20_000 * 72)
    expect(events).toBeLessThan(500)
  })

  it('in chunks of all sizes comes whole', { timeout: 30_000 }, async () => {
    const sizes = fc.array(fc.oneof(fc.integer({ min: 1, max: 200 }), fc.integer({ min: 1, max: 100_000 })), {
      maxLength: 60,
    })
    await fc.assert(
      fc.asyncProperty(sizes, fc.constantFrom('/', '/slow'), async (of, path) => {
        const { bytes } = await post(
          path,
          of.map(size => 'x'.repeat(size)),
        )
        expect(bytes).toBe(of.reduce((sum, size) => sum + size, 0))
      }),
      { numRuns: 30 },
    )
  })

  it('in very many chunks of a few bytes breaks off', async () => {
    expect(await post('/', Array(20_000).fill('xx'))).toEqual({ error: expect.stringMatching(/more than 4096 chunks/) })
  })
})
