import { connect, type Socket } from 'node:net'
import { finished } from 'node:stream'
import { afterEach, expect, it } from 'vitest'
import { bareServer } from '../../support/http-server.ts'

const closing: (() => unknown)[] = []
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close()
})

/** So many are answered of a connection on which more wait: 4 at work, and 64 behind them. */
const TAKEN = 68
const REQUESTS = TAKEN - 1
const PAGE = 'x'.repeat(100_000)

/** A server that counts what it has begun, and a client that sends everything at once, and reads when it is told to. */
async function pipelined() {
  let begun = 0
  let closed = 0
  let ended = 0
  let read = () => 0
  let letOn = () => {}
  const held = new Promise<void>(resolve => (letOn = resolve))
  const app = bareServer()
  app.get('/page/:n', async request => {
    begun++
    await new Promise(resolve => setImmediate(resolve))
    return { n: (request.params as { n: string }).n, page: PAGE }
  })
  app.get('/small', async () => {
    begun++
    return {}
  })
  app.get('/held', async (_, reply) => {
    begun++
    reply.raw.once('close', () => closed++)
    await held
    // Whoever waits for its end, as for a reply that a handler returns, is told, though it begins to wait only now.
    finished(reply.raw, () => ended++)
    return {}
  })
  app.server.on('connection', (socket: Socket) => {
    read = () => socket.bytesRead
  })
  app.post('/size', async request => (request.body as { text: string }).text.length)
  await app.listen({ host: '127.0.0.1', port: 0 })
  const socket = connect((app.server.address() as { port: number }).port, '127.0.0.1')
  closing.push(
    () => app.close(),
    () => socket.destroy(),
  )
  const connectAnother = () => {
    const another = connect((app.server.address() as { port: number }).port, '127.0.0.1')
    closing.unshift(() => another.destroy())
    return another
  }
  return {
    socket,
    connectAnother,
    begun: () => begun,
    closed: () => closed,
    ended: () => ended,
    read: () => read(),
    letOn,
  }
}
const get = (n: number) => `GET /page/${n} HTTP/1.1\r\nHost: x\r\n\r\n`

it('requests that nobody takes the answers of are not begun, and all are answered in their order once somebody does', async () => {
  const { socket, begun } = await pipelined()
  socket.pause()
  for (let n = 0; n < REQUESTS; n++) socket.write(get(n))
  let before = -1
  while (before !== begun()) {
    before = begun()
    await new Promise(resolve => setTimeout(resolve, 200))
  }
  // Those that the buffers of the system take, and a few.
  expect(before).toBeGreaterThan(0)
  expect(before).toBeLessThan(150)
  let text = ''
  let next = 0
  await new Promise<void>(resolve => {
    socket.resume().on('data', data => {
      text += data.toString('latin1')
      for (let found = /"n":"(\d+)"/.exec(text); found; found = /"n":"(\d+)"/.exec(text)) {
        expect(Number(found[1])).toBe(next++)
        text = text.slice(found.index + found[0].length)
      }
      text = text.slice(-20)
      if (next === REQUESTS) resolve()
    })
  })
  expect(begun()).toBe(REQUESTS)
})

it('requests of a client that has gone are not begun', async () => {
  const { socket, begun } = await pipelined()
  socket.pause()
  for (let n = 0; n < REQUESTS; n++) socket.write(get(n))
  while (begun() === 0) await new Promise(resolve => setTimeout(resolve, 20))
  socket.destroy()
  await new Promise(resolve => setTimeout(resolve, 100))
  const before = begun()
  await new Promise(resolve => setTimeout(resolve, 500))
  expect(begun()).toBe(before)
  expect(before).toBeLessThan(150)
})

it('the last that may wait is answered, closes the connection, and what is behind it is not looked at', async () => {
  const { socket, begun, read, letOn } = await pipelined()
  const requests = 100_000
  const text = 'GET /held HTTP/1.1\r\nHost: x\r\n\r\n'
  socket.write(text.repeat(requests))
  await new Promise(resolve => setTimeout(resolve, 500))
  expect(begun()).toBe(4)
  expect(read()).toBeLessThan(300_000)
  letOn()
  let answers = ''
  socket.on('data', data => (answers += data.toString('latin1')))
  socket.on('error', () => {})
  await expect.poll(() => socket.closed, { timeout: 30_000 }).toBe(true)
  expect(begun()).toBe(TAKEN)
  expect(answers.split('HTTP/1.1 200')).toHaveLength(TAKEN + 1)
  expect(answers.toLowerCase().split('connection: close')).toHaveLength(2)
})

it('all that are at work learn that their client has gone, also later', async () => {
  const { socket, begun, closed, ended, letOn } = await pipelined()
  socket.write('GET /held HTTP/1.1\r\nHost: x\r\n\r\n'.repeat(4))
  await expect.poll(begun).toBe(4)
  socket.destroy()
  await expect.poll(closed).toBe(4)
  letOn()
  await expect.poll(ended).toBe(4)
})

it('bodies behind requests that wait are read', async () => {
  const { socket } = await pipelined()
  const body = JSON.stringify({ text: 'y'.repeat(300_000) })
  const post = `POST /size HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`
  const last = `${get(7).replace('\r\n\r\n', '\r\nConnection: close\r\n\r\n')}`
  for (let n = 0; n < 20; n++) socket.write(n % 2 ? post : get(n))
  socket.write(last)
  let text = ''
  for await (const data of socket) text += data.toString('latin1')
  expect(text.match(/HTTP\/1.1 200/g)).toHaveLength(21)
  expect(text.match(/\r\n\r\n300000HTTP/g)).toHaveLength(10)
})

it('a body behind those that wait, and what follows on the next connection, are read', async () => {
  const { socket, begun, connectAnother } = await pipelined()
  const body = JSON.stringify({ text: 'z'.repeat(100_000) })
  const post = `POST /size HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`
  const small = 'GET /small HTTP/1.1\r\nHost: x\r\n\r\n'
  socket.write(small.repeat(TAKEN - 1) + post)
  let text = ''
  for await (const data of socket) text += data.toString('latin1')
  expect(text.match(/HTTP\/1.1 200/g)).toHaveLength(TAKEN)
  expect(text).toMatch(/\r\n\r\n100000$/)
  const next = connectAnother()
  next.write(small)
  await new Promise(resolve => next.once('data', resolve))
  expect(begun()).toBe(TAKEN)
})

it('of many connections at once a little is worked on in each round of the event loop', async () => {
  const { socket, begun, connectAnother } = await pipelined()
  const others = Array.from({ length: 100 }, connectAnother)
  for (const other of others) other.resume().write('GET /small HTTP/1.1\r\nHost: x\r\n\r\n'.repeat(1000))
  // Whatever else has come is seen to when the event loop comes round.
  let most = 0
  for (let before = 0; begun() < others.length * TAKEN; before = begun()) {
    await new Promise(resolve => setImmediate(resolve))
    most = Math.max(most, begun() - before)
  }
  expect(most).toBeLessThan(1000)
  expect(begun()).toBe(others.length * TAKEN)
  socket.destroy()
})

it('the last that may wait is answered to the end, whatever was sent behind it and however late its client reads', async () => {
  const { socket, begun } = await pipelined()
  let answers = ''
  let failed: Error | undefined
  socket.on('error', error => (failed = error))
  socket.on('data', piece => {
    answers += piece.toString('latin1')
  })
  socket.pause()
  socket.write(Array.from({ length: 200 * REQUESTS }, (_, n) => get(n)).join(''))
  await expect.poll(begun).toBeGreaterThan(3)
  // A little at a time, as from far away.
  for (let n = 0; n < 40; n++) {
    socket.resume()
    await new Promise(resolve => setImmediate(resolve))
    socket.pause()
    await new Promise(resolve => setTimeout(resolve, 10))
  }
  socket.resume()
  await expect.poll(() => socket.destroyed).toBe(true)
  expect(failed).toBeUndefined()
  expect(answers.split('HTTP/1.1 200')).toHaveLength(TAKEN + 1)
  expect(answers.length).toBeGreaterThan(TAKEN * PAGE.length)
})

it('requests that expect what nobody does are answered as others, no more of them at once, and with the code for it', async () => {
  const { socket, begun } = await pipelined()
  socket.write('GET /small HTTP/1.1\r\nHost: x\r\nExpect: tea\r\n\r\n'.repeat(1000))
  let answers = ''
  socket.on('error', () => {})
  socket.on('data', data => (answers += data.toString('latin1')))
  await expect.poll(() => socket.closed, { timeout: 30_000 }).toBe(true)
  expect(answers.split('HTTP/1.1 417')).toHaveLength(TAKEN + 1)
  expect(answers.split('"code":"EXPECTATION_FAILED"')).toHaveLength(TAKEN + 1)
  expect(begun()).toBe(0)
})
