import { createServer, type ServerResponse } from 'node:http'
import { type AddressInfo, connect } from 'node:net'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { ReplyEnding } from '../../../src/api/http/reply-ending.ts'

let answers: ServerResponse[] = []
const server = createServer((_, answer) => void answers.push(answer))

beforeAll(async () => {
  server.listen(0, '127.0.0.1')
  await new Promise(resolve => server.once('listening', resolve))
})
afterAll(() => {
  server.closeAllConnections()
  server.close()
})

/** An answer under way, and how its client goes away: when that is seen here. */
async function underWay() {
  answers = []
  const socket = connect((server.address() as AddressInfo).port, '127.0.0.1')
  socket.write('GET / HTTP/1.1\r\nhost: here\r\n\r\n')
  await expect.poll(() => answers.length).toBe(1)
  const [raw] = answers
  const leave = async () => {
    const closed = new Promise(resolve => raw!.once('close', resolve))
    socket.destroy()
    await closed
  }
  return { ending: new ReplyEnding({ raw: raw! }), raw: raw!, leave }
}

it('has ended for a client that went before anybody asked for the signal, whatever is asked first', async () => {
  const first = await underWay()
  await first.leave()
  expect(first.ending.signal.aborted).toBe(true)
  expect(first.ending.hasEnded).toBe(true)
  const second = await underWay()
  await second.leave()
  expect(second.ending.hasEnded).toBe(true)
  expect(second.ending.signal.reason).toMatchObject({ code: 'CANCELLED' })
})

it('ends for a client that goes later', async () => {
  const { ending, leave } = await underWay()
  expect([ending.hasEnded, ending.signal.aborted]).toEqual([false, false])
  await leave()
  expect([ending.hasEnded, ending.signal.aborted]).toEqual([true, true])
})

it('has not ended for a client that got its answer', async () => {
  const { ending, raw } = await underWay()
  const closed = new Promise(resolve => raw.once('close', resolve))
  raw.end('whole')
  await closed
  expect([ending.hasEnded, ending.signal.aborted]).toEqual([false, false])
})
