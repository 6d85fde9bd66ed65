import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { Worker } from 'node:worker_threads'
import { afterEach, expect, it } from 'vitest'
import {
  CANCEL,
  callHeaders,
  DATA,
  END_HEADERS,
  END_STREAM,
  frame,
  HEADERS,
  PING,
  PREFACE,
  RST_STREAM,
  streams,
} from '../support/http2-frames.ts'
import { eventually, startFileNode } from '../support/running.ts'

/** Clients that speak HTTP/2 by hand, and send as fast as their socket takes it (decision 0041). */

const node = await startFileNode()
const open: Socket[] = []
afterEach(() => {
  for (const socket of open.splice(0)) socket.destroy()
})

interface Received {
  readonly type: number
  readonly flags: number
  readonly stream: number
}

/** A client, and what heads of frames it has received. */
async function client() {
  const socket = connect(node.grpcPort, '127.0.0.1')
  open.push(socket)
  const received: Received[] = []
  let rest = Buffer.alloc(0)
  socket.on('error', () => {})
  socket.on('data', bytes => {
    rest = Buffer.concat([rest, bytes])
    let at = 0
    for (; at + 9 <= rest.length && at + 9 + rest.readUIntBE(at, 3) <= rest.length; at += 9 + rest.readUIntBE(at, 3))
      received.push({ type: rest[at + 3]!, flags: rest[at + 4]!, stream: rest.readUInt32BE(at + 5) })
    rest = rest.subarray(at)
  })
  await new Promise(resolve => socket.once('connect', resolve))
  socket.write(PREFACE)
  return { socket, received }
}

const UNKNOWN = callHeaders('/no.Such/Method')
const REFUSED = callHeaders('/percolate.v1.Rem/GetEntity')
const MESSAGE = Buffer.alloc(5)
const CLIENTS = 20
const CALLS = 900

/** In a thread of its own: so many clients that send everything at once, and wait until its end was answered or they are cut off. */
const FLOOD = `
const { connect } = require('node:net')
const { parentPort, workerData: { port, clients, flood } } = require('node:worker_threads')
const ends = Buffer.from([0, 0, 8, 6, 1, 0, 0, 0, 0])
let left = clients
for (let n = 0; n < clients; n++) {
  let last = Buffer.alloc(0)
  const socket = connect(port, '127.0.0.1', () => socket.write(flood))
  socket.on('error', () => {})
  socket.on('data', bytes => {
    last = Buffer.concat([last, bytes]).subarray(-1000)
    if (last.includes(ends)) socket.destroy()
  })
  socket.on('close', () => {
    if (--left === 0) parentPort.postMessage('done')
  })
}
`

it.each([
  ['has no such method', (id: number) => [frame(HEADERS, END_STREAM | END_HEADERS, id, UNKNOWN)]],
  ['names no tenant', (id: number) => [frame(HEADERS, END_HEADERS, id, REFUSED), frame(DATA, END_STREAM, id, MESSAGE)]],
  ['is reset at once', (id: number) => [frame(HEADERS, END_HEADERS, id, UNKNOWN), frame(RST_STREAM, 0, id, CANCEL)]],
  [
    'is reset behind its message',
    (id: number) => [
      frame(HEADERS, END_HEADERS, id, REFUSED),
      frame(DATA, END_STREAM, id, MESSAGE),
      frame(RST_STREAM, 0, id, CANCEL),
    ],
  ],
] as const)('answers others between the calls of clients of which each %s', async (_, callOf) => {
  const flood = Buffer.concat([PREFACE, ...streams(CALLS).flatMap(callOf), frame(PING, 0, 0, Buffer.alloc(8))])
  const worker = new Worker(FLOOD, { eval: true, workerData: { port: node.grpcPort, clients: CLIENTS, flood } })
  try {
    const done = once(worker, 'message')
    let isDone = false
    void done.then(() => {
      isDone = true
    })
    await once(worker, 'online')
    const begunMs = performance.now()
    let longestMs = 0
    while (!isDone) {
      const askedMs = performance.now()
      expect((await fetch(`${node.url}/health`)).status).toBe(200)
      longestMs = Math.max(longestMs, performance.now() - askedMs)
    }
    expect(longestMs / (performance.now() - begunMs)).toBeLessThan(1 / 4)
  } finally {
    await worker.terminate()
  }
})

it('ends a call of a method that it does not have, when its client does not', async () => {
  const { socket, received } = await client()
  socket.write(frame(HEADERS, END_HEADERS, 1, UNKNOWN))
  await eventually('the server resets the stream behind its answer', async () => {
    const ofStream = received.filter(({ stream }) => stream === 1)
    return ofStream.map(({ type }) => type).join() === [HEADERS, RST_STREAM].join()
  })
})

it('tells of a stream of messages that its client cancels as cancelled', async () => {
  const errors = async (code: string): Promise<number> =>
    Number(
      new RegExp(`^percolate_errors_total\\{code="${code}"\\} (\\d+)`, 'm').exec(
        await (await fetch(`${node.url}/metrics`)).text(),
      )?.[1] ?? 0,
    )
  const internal = await errors('INTERNAL')
  const cancelled = await errors('CANCELLED')
  const { socket } = await client()
  const headers = callHeaders('/percolate.v1.Rem/WriteResources', { 'x-tenant-id': 'acme' })
  for (const id of streams(10)) {
    socket.write(frame(HEADERS, END_HEADERS, id, headers))
    if (id > 9) await new Promise(resolve => setTimeout(resolve, 20))
    socket.write(frame(RST_STREAM, 0, id, CANCEL))
  }
  await eventually('they are counted', async () => (await errors('CANCELLED')) >= cancelled + 5)
  expect(await errors('INTERNAL')).toBe(internal)
})

it('goes on when clients end their side, or go, behind their calls', async () => {
  // A number as by chance, and the same each time.
  let seed = 7
  const below = (max: number): number => {
    seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff
    return (seed >>> 8) % max
  }
  const methods = [...['GetEntity', 'ListEntities', 'Search'].map(name => `percolate.v1.Rem/${name}`)]
  const paths = [...methods, 'grpc.health.v1.Health/Check', 'grpc.health.v1.Health/Watch', 'no.Such/Method']
  const heads = paths.map(path => callHeaders(`/${path}`, { 'x-tenant-id': 'acme' }))
  const call = (id: number) => [
    frame(HEADERS, END_HEADERS, id, heads[below(heads.length)]!),
    frame(DATA, END_STREAM, id, MESSAGE),
    ...(below(3) === 0 ? [frame(PING, 0, 0, Buffer.alloc(8))] : []),
    ...(below(10) === 0 ? [frame(RST_STREAM, 0, id, CANCEL)] : []),
  ]
  const one = async () => {
    const { socket } = await client()
    const bytes = Buffer.concat(streams(1 + below(30)).flatMap(call))
    const how = below(10)
    if (how < 5) socket.end(bytes)
    else {
      socket.write(bytes)
      setTimeout(() => (how < 8 ? socket.end() : socket.resetAndDestroy()), below(8))
    }
    setTimeout(() => socket.destroy(), 300)
    await new Promise(resolve => socket.once('close', resolve))
  }
  for (let n = 0; n < 25; n++) await Promise.all(Array.from({ length: 40 }, one))
  expect((await node.request('GET', '/api/v1/entities', { tenant: 'acme' })).status).toBe(200)
})

it('lets a client go that takes nothing, and stops beside one', async () => {
  const other = await startFileNode({ env: { PERCOLATE_READER_STALL_MS: '1000' } })
  const stuck = async () => {
    const socket = connect(other.grpcPort, '127.0.0.1')
    open.push(socket)
    socket.on('error', () => {})
    socket.pause()
    await new Promise(resolve => socket.once('connect', resolve))
    socket.write(PREFACE)
    const pings = Buffer.concat(Array.from({ length: 1000 }, () => frame(PING, 0, 0, Buffer.alloc(8))))
    const write = () => {
      while (!socket.destroyed && socket.write(pings));
    }
    socket.on('drain', write)
    write()
    return socket
  }
  await stuck()
  const openNow = async (): Promise<string | undefined> =>
    /^percolate_connections\{server="grpc"\} (\d+)/m.exec(await (await fetch(`${other.url}/metrics`)).text())?.[1]
  await eventually('it is there', async () => (await openNow()) === '1')
  await eventually('it is closed', async () => (await openNow()) === '0')
  await stuck()
  await eventually('the next is there', async () => (await openNow()) === '1')
  await other.stop()
})
