import { PercolateError } from '../../src/base/errors.ts'
import { systemTime } from '../../src/base/time.ts'
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
