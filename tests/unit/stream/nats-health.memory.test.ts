import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { expect, it } from 'vitest'
import { systemTime } from '../../../src/base/time.ts'
import { jetStreamHealth } from '../../../src/stream/nats/health.ts'

it('gives a question up that gets no answer, also when garbage is collected meanwhile', async () => {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  const server = createServer((request, response) => {
    if (request.url?.startsWith('/healthz')) response.end('{"status":"ok"}')
  }).listen(0, '127.0.0.1')
  await new Promise(resolve => server.once('listening', resolve))
  const timer = setInterval(collect, 50)
  try {
    const health = jetStreamHealth(() => `http://127.0.0.1:${(server.address() as AddressInfo).port}`, systemTime)
    expect((await health.ask(new AbortController().signal)).kind).toBe('silent')
  } finally {
    clearInterval(timer)
    server.closeAllConnections()
    server.close()
  }
})
