import { connect, type JetStreamManager, type NatsConnection } from 'nats'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { systemTime } from '../../src/base/time.ts'
import { NatsStream } from '../../src/stream/nats/adapter.ts'
import { type LosableNats, startLosableNats } from '../support/losable-nats.ts'
import { eventually, logger, remove, tempFolder } from '../support/running.ts'

let folder: string
let nats: LosableNats
let stream: NatsStream
let observer: NatsConnection
let manager: JetStreamManager

beforeAll(async () => {
  folder = await tempFolder()
  nats = await startLosableNats(folder)
  stream = new NatsStream({ url: nats.url, name: 'reader', requestTimeoutMs: 1000, logger })
  observer = await connect({ servers: new URL(nats.url).host, maxReconnectAttempts: -1, reconnectTimeWait: 100 })
  manager = await observer.jetstreamManager()
  await stream.ensureStream({ name: 's', subjects: ['s'], retention: 'limits', maxAgeMs: 0, replicas: 1 })
})
afterAll(async () => {
  await observer?.close()
  await stream?.close()
  await nats?.stop()
  await remove(folder)
})

async function consumers(): Promise<number> {
  let count = 0
  for await (const _ of manager.consumers.list('s')) count++
  return count
}

it('a reader goes on when the server was killed, and leaves no consumer of its earlier ones behind', async () => {
  const ending = new AbortController()
  let next = 1
  const reading = (async () => {
    while (!ending.signal.aborted) {
      try {
        for await (const { sequence } of stream.consume('s', { fromSequence: next, signal: ending.signal }))
          next = sequence + 1
      } catch {
        // It starts over, as every reader does.
        await systemTime.sleep(50)
      }
    }
  })()
  try {
    for (let round = 1; round <= 3; round++) {
      await nats.kill()
      await nats.start()
      const stored = () =>
        stream.publish('s', Buffer.from('x'), `round-${round}`).then(
          () => true,
          () => false,
        )
      await eventually('a message is stored', stored)
      await eventually('it is read', async () => next === round + 1)
    }
    await eventually('there is one consumer', async () => (await consumers().catch(() => 0)) === 1, 5000)
  } finally {
    ending.abort()
    await reading
  }
  await eventually('there is none', async () => (await consumers()) === 0, 5000)
  expect(next).toBe(4)
})
