import { connect } from 'nats'
import { expect, it } from 'vitest'
import { PercolateError } from '../../src/base/errors.ts'
import { systemTime } from '../../src/base/time.ts'
import { handleResets } from '../../src/stream/nats/adapter.ts'
import type { StreamPort } from '../../src/stream/port.ts'
import { streamContract } from '../contract/stream.ts'
import { connectNats, remove, startTestNats, tempFolder } from '../support/running.ts'

streamContract('nats-server', async () => {
  const folder = await tempFolder()
  const server = await startTestNats(folder)
  const real = connectNats(server.url)
  let lose = false
  const stream = new Proxy(real, {
    get(target, name: keyof StreamPort) {
      if (name === 'publish') {
        return async (...args: Parameters<StreamPort['publish']>) => {
          const ack = await target.publish(...args)
          if (!lose) return ack
          lose = false
          throw new PercolateError('STREAM_UNAVAILABLE', 'lost')
        }
      }
      const value: unknown = Reflect.get(target, name)
      return typeof value === 'function' ? value.bind(target) : value
    },
  }) as unknown as StreamPort
  return {
    stream,
    loseAnswer: () => {
      lose = true
    },
    sleep: ms => systemTime.sleep(ms),
    stop: async () => {
      await real.close()
      await server.stop()
      await remove(folder)
    },
  }
})

it('an ordered consumer that is made anew when its stream is gone ends its iteration, and not the process', async () => {
  const folder = await tempFolder()
  const server = await startTestNats(folder)
  const { host, username, password } = new URL(server.url)
  const connection = await connect({
    servers: host,
    ...(password ? { user: username, pass: password } : { token: username }),
  })
  const unhandled: unknown[] = []
  const note = (reason: unknown) => void unhandled.push(reason)
  const others = process.listeners('unhandledRejection')
  process.removeAllListeners('unhandledRejection').on('unhandledRejection', note)
  try {
    const manager = await connection.jetstreamManager()
    await manager.streams.add({ name: 's', subjects: ['s'] })
    const consumer = await connection.jetstream().consumers.get('s')
    handleResets(consumer)
    const messages = await consumer.consume({ abort_on_missing_resource: true })
    const ended = (async () => {
      for await (const _ of messages);
    })().catch((error: Error) => error.message)
    await manager.streams.delete('s')
    // What the client does by itself when it misses heartbeats.
    ;(consumer as unknown as { notifyOrderedResetAndReset(): void }).notifyOrderedResetAndReset()
    await ended
    await systemTime.sleep(100)
    expect(unhandled).toEqual([])
  } finally {
    process.removeAllListeners('unhandledRejection')
    for (const listener of others) process.on('unhandledRejection', listener)
    await connection.close()
    await server.stop()
    await remove(folder)
  }
})
