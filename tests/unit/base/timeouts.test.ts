import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { PercolateClient } from '../../../client/client.ts'
import { systemTime } from '../../../src/base/time.ts'
import { ChatModel } from '../../../src/chat/model.ts'
import { OpenAiEmbedder } from '../../../src/embedding/openai.ts'

setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc') as () => void
const timeoutMs = 500
let server: Server
let url: string
let timer: NodeJS.Timeout

beforeAll(async () => {
  // Takes requests, and never answers.
  server = createServer(() => {}).listen(0, '127.0.0.1')
  await new Promise(resolve => server.once('listening', resolve))
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  timer = setInterval(collect, 50)
})

afterAll(() => {
  clearInterval(timer)
  server.closeAllConnections()
  server.close()
})

describe('a server that never answers is given up, also when garbage is collected meanwhile', () => {
  it('by the embedder', async () => {
    const embedder = new OpenAiEmbedder({
      time: systemTime,
      url,
      model: 'm',
      apiKey: undefined,
      dimensions: 3,
      timeoutMs,
      batchMax: 1,
      attemptsMax: 1,
      cacheBytesMax: 1000,
    })
    await expect(
      embedder.embed(['text'], { tenant: 'acme', signal: new AbortController().signal }),
    ).rejects.toMatchObject({
      code: 'EMBEDDING_UNAVAILABLE',
    })
  })

  it('by the chat model', async () => {
    const model = new ChatModel({ url, model: 'm', apiKey: undefined, timeoutMs })
    const answer = model.answer([{ role: 'user', content: 'hello' }], {}, new AbortController().signal)
    await expect(answer.next()).rejects.toMatchObject({ code: 'CHAT_UNAVAILABLE' })
  })

  it('by the client', async () => {
    const client = new PercolateClient({ url, tenant: 'acme', timeoutMs, attemptsMax: 1 })
    await expect(client.getEntity('ada', { signal: new AbortController().signal })).rejects.toMatchObject({
      code: 'UNREACHABLE',
    })
  })
})
