import { PercolateError } from '../../src/base/errors.ts'
import { systemTime } from '../../src/base/time.ts'
import { MemoryStream } from '../../src/stream/memory/adapter.ts'
import { MemoryLog } from '../../src/stream/memory/log.ts'
import { streamContract } from './stream.ts'

streamContract('the simulated servers', async () => {
  let lose = false
  const stream = new MemoryStream(new MemoryLog(systemTime), {
    request: async () => {},
    answer: async () => {
      if (!lose) return
      lose = false
      throw new PercolateError('STREAM_UNAVAILABLE', 'lost')
    },
    push: () => 0,
  })
  return {
    stream,
    loseAnswer: () => {
      lose = true
    },
    sleep: ms => systemTime.sleep(ms),
    stop: () => stream.close(),
  }
})
