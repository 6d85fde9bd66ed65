import { createServer as createHttp2Server, type ServerHttp2Stream } from 'node:http2'
import { connect, createServer, type Socket } from 'node:net'
import { performance } from 'node:perf_hooks'
import { afterEach, expect, it, vi } from 'vitest'
import { PacedConnection } from '../../../src/api/grpc/paced-connection.ts'
import { SLICE_MS_MAX } from '../../../src/base/limits.ts'
import { Turns } from '../../../src/base/turns.ts'
import {
  CANCEL,
  callHeaders,
  END_HEADERS,
  END_STREAM,
  frame,
  HEADERS,
  PREFACE,
  RST_STREAM,
  SETTINGS,
  streams,
  WINDOW_UPDATE,
} from '../../support/http2-frames.ts'
import { eventually } from '../../support/running.ts'

const closing: (() => void)[] = []
afterEach(() => {
  for (const close of closing.splice(0).reverse()) close()
})

const CALLS = 600
const HEAD = callHeaders('/no.Such/Method')
/** More than the kernel takes of what nobody reads. */
const LARGE_BYTES = 32 * 1024 * 1024
const calls = Buffer.concat(streams(CALLS).map(id => frame(HEADERS, END_STREAM | END_HEADERS, id, HEAD)))

/** A server whose connections are paced, that tells of every stream; and clients of it. */
async function paced(onStream: (stream: ServerHttp2Stream, headers: Record<string, unknown>) => void) {
  const turns = new Turns()
  const http2 = createHttp2Server()
  const connections: PacedConnection[] = []
  http2.on('stream', (stream, headers) => {
    stream.on('error', () => {})
    onStream(stream, headers)
  })
  http2.on('sessionError', () => {})
  const listener = createServer({ allowHalfOpen: true, noDelay: true }, socket => {
    const connection = new PacedConnection(socket, turns)
    connections.push(connection)
    http2.emit('connection', connection)
  })
  await new Promise<void>(resolve => listener.listen(0, '127.0.0.1', resolve))
  const { port } = listener.address() as { port: number }
  closing.push(() => listener.close())
  const client = async (): Promise<Socket> => {
    const socket = connect(port, '127.0.0.1')
    closing.push(() => socket.destroy())
    socket.on('error', () => {})
    socket.resume()
    await new Promise(resolve => socket.once('connect', resolve))
    socket.write(PREFACE)
    return socket
  }
  return { client, connections, turns }
}

const answer = (stream: ServerHttp2Stream): void => stream.respond({ ':status': 200 }, { endStream: true })

/** Takes as long as an answer to a call may. */
function work(ms: number): void {
  for (const until = performance.now() + ms; performance.now() < until; );
}

/** The most that was counted while the event loop came round once. */
function mostInARound() {
  let count = 0
  let most = 0
  const next = () => {
    most = Math.max(most, count)
    count = 0
    if (isOn) setImmediate(next)
  }
  let isOn = true
  setImmediate(next)
  return {
    count: () => count++,
    stop: () => {
      isOn = false
      return most
    },
  }
}

it('begins a few calls of a piece at once, and the others a slice at a time, over all connections', async () => {
  const rounds = mostInARound()
  let begun = 0
  const { client } = await paced(stream => {
    rounds.count()
    begun++
    work(SLICE_MS_MAX / 2)
    answer(stream)
  })
  const clients = [await client(), await client(), await client()]
  for (const socket of clients) socket.write(calls)
  await eventually('all have begun', async () => begun === CALLS * clients.length)
  // 4 or 8 of each connection at once, and a slice.
  expect(rounds.stop()).toBeLessThan(40)
})

it('lets whoever makes one call wait for nobody who makes many', async () => {
  let many = 0
  let before: number | undefined
  const { client } = await paced((stream, headers) => {
    if (headers[':path'] === '/one') before = many
    else many++
    work(SLICE_MS_MAX / 2)
    answer(stream)
  })
  const [flood, other] = [await client(), await client()]
  flood.write(calls)
  await eventually('the others are under way', async () => many > 0)
  const sent = many
  other.write(frame(HEADERS, END_STREAM | END_HEADERS, 1, callHeaders('/one')))
  await eventually('it has begun', async () => before !== undefined)
  expect(before! - sent).toBeLessThan(CALLS / 4)
})

it('has no turns for a connection of another node', async () => {
  let begun = 0
  const { client, connections, turns } = await paced(stream => {
    begun++
    answer(stream)
  })
  const socket = await client()
  await eventually('it is there', async () => connections.length === 1)
  connections[0]!.trust()
  const waits = vi.spyOn(turns, 'wait')
  socket.write(calls)
  await eventually('all have begun', async () => begun === CALLS)
  expect(waits).not.toHaveBeenCalled()
})

it('tells of a call before it hears that the call was reset', async () => {
  let begun = 0
  let closed = 0
  const { client } = await paced(stream => {
    begun++
    if (stream.closed || stream.destroyed) closed++
    else answer(stream)
  })
  const socket = await client()
  socket.write(
    Buffer.concat(
      streams(200).flatMap(id => [
        frame(HEADERS, END_STREAM | END_HEADERS, id, HEAD),
        frame(RST_STREAM, 0, id, CANCEL),
      ]),
    ),
  )
  await eventually('all have begun', async () => begun === 200)
  expect(closed).toBe(0)
})

it('goes on for a client that is written to all the time', async () => {
  let isReset = false
  const { client } = await paced(stream => {
    stream.respond({ ':status': 200 })
    const page = Buffer.alloc(16 * 1024)
    const write = () => {
      while (!stream.destroyed && stream.write(page));
      if (!stream.destroyed) stream.once('drain', write)
    }
    write()
    stream.once('close', () => {
      isReset = true
    })
  })
  const socket = await client()
  // A window that never closes, for the connection and for its streams.
  const wide = Buffer.from([0x7f, 0, 0, 0])
  socket.write(frame(8, 0, 0, wide))
  socket.write(frame(4, 0, 0, Buffer.from([0, 4, 0x7f, 0, 0, 0])))
  socket.write(frame(HEADERS, END_STREAM | END_HEADERS, 1, HEAD))
  await eventually('it is written to', async () => socket.bytesRead > 1_000_000)
  socket.write(
    Buffer.concat([...streams(64).map(() => frame(6, 0, 0, Buffer.alloc(8))), frame(RST_STREAM, 0, 1, CANCEL)]),
  )
  await eventually('the reset arrives', async () => isReset)
})

it('ends with its client, and its client with it', async () => {
  const { client, connections } = await paced(answer)
  const [gone, ended, ours] = [await client(), await client(), await client()]
  await eventually('they are there', async () => connections.length === 3)
  gone.resetAndDestroy()
  ended.end()
  await eventually('the server has let go', async () => connections[0]!.destroyed && connections[1]!.destroyed)
  connections[2]!.destroy()
  await eventually('the client hears of it', async () => ours.destroyed || ours.readableEnded)
})

it('goes on with a client that takes nothing for longer than Node may be silent, with calls behind what is written to it', async () => {
  const { client, connections } = await paced((stream, headers) => {
    if (headers[':path'] !== '/large') return answer(stream)
    stream.respond({ ':status': 200 })
    stream.end(Buffer.alloc(LARGE_BYTES))
  })
  const socket = await client()
  let taken = 0
  socket.on('data', piece => {
    taken += piece.length
  })
  const window = Buffer.alloc(4)
  window.writeUInt32BE(2 ** 30)
  socket.write(
    Buffer.concat([
      frame(SETTINGS, 0, 0, Buffer.concat([Buffer.from([0, 4]), window])),
      frame(WINDOW_UPDATE, 0, 0, window),
      frame(HEADERS, END_STREAM | END_HEADERS, 1, callHeaders('/large')),
    ]),
  )
  await eventually('the answer begins', async () => taken > 0)
  socket.pause()
  // What comes now comes while Node writes.
  socket.write(Buffer.concat(streams(40).map(id => frame(HEADERS, END_STREAM | END_HEADERS, id + 2, HEAD))))
  for (let n = 0; n < 4; n++) {
    await new Promise(resolve => setTimeout(resolve, 200))
    // As long as a look at whether Node reads, in which it cannot.
    work(600)
  }
  expect(connections[0]!.destroyed).toBe(false)
  socket.resume()
  await eventually('the whole answer is there', async () => taken > LARGE_BYTES)
  expect(connections[0]!.destroyed).toBe(false)
})
