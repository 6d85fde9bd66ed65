import { createServer, type Server } from 'node:http'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Ingestion } from '../support/ingestion.ts'
import { eventually } from '../support/running.ts'

/** An OpenAI-compatible endpoint that can be taken down. */
let provider: Server
let down = false
let lastChat: { messages: { role: string; content: string }[] }
let embedCalls = 0
const meaning = (text: string): number[] => [
  /cat|kitten|feline/i.test(text) ? 1 : 0,
  /car|engine|motor/i.test(text) ? 1 : 0,
  0.1,
]

let parts: Ingestion
let node: Ingestion['node']

beforeAll(async () => {
  provider = createServer((request, response) => {
    let text = ''
    request.on('data', chunk => {
      text += chunk
    })
    request.on('end', () => {
      if (down || request.headers.authorization !== 'Bearer key-that-stays-secret') {
        response.writeHead(503).end('key-that-stays-secret')
        return
      }
      const body = JSON.parse(text)
      if (request.url === '/v1/embeddings') {
        embedCalls++
        response.setHeader('content-type', 'application/json')
        response.end(
          JSON.stringify({
            data: (body.input as string[]).map((input, index) => ({ index, embedding: meaning(input) })),
          }),
        )
      } else {
        lastChat = body
        response.writeHead(200, { 'content-type': 'text/event-stream' })
        for (const content of ['Cats ', 'purr [1].'])
          response.write(`data: ${JSON.stringify({ choices: [{ delta: { content } }] })}\n\n`)
        response.end('data: [DONE]\n\n')
      }
    })
  })
  await new Promise<void>(resolve => provider.listen(0, '127.0.0.1', resolve))
  const url = `http://127.0.0.1:${(provider.address() as { port: number }).port}/v1`
  const env = {
    PERCOLATE_EMBEDDING_URL: url,
    PERCOLATE_EMBEDDING_MODEL: 'tiny',
    PERCOLATE_EMBEDDING_API_KEY: 'key-that-stays-secret',
    PERCOLATE_CHAT_URL: url,
    PERCOLATE_CHAT_MODEL: 'talker',
    PERCOLATE_CHAT_API_KEY: 'key-that-stays-secret',
  }
  parts = await Ingestion.start({ env })
  ;({ node } = parts)
  parts.also(() => provider.close())
  await parts.startWorker()
})
afterAll(() => parts.stop())
const post = (content: string) => node.request('POST', '/api/v1/resources', { body: { content } })
const search = async (query: string) => (await node.request('GET', `/api/v1/resources?${query}`)).body

describe('an OpenAI-compatible provider', () => {
  it('embeds what is stored and what is asked, so that meaning finds what words do not', async () => {
    await post('A kitten slept on the sofa.')
    await post('The engine needs oil.')
    const { results } = await search('query=feline&mode=vector')
    expect(results[0].content).toContain('kitten')
    expect(results[0].embedding_model).toBe('openai:tiny')
    const calls = embedCalls
    await search('query=feline&mode=vector')
    expect(embedCalls).toBe(calls)
  })

  it('is not asked for a batch in which an embedding is wrong', async () => {
    const calls = embedCalls
    const wrong = { content: 'c', embedding: [1, 2] }
    const { status, body } = await node.request('POST', '/api/v1/resources', {
      body: { resources: [{ content: 'a' }, { content: 'b' }, wrong] },
    })
    expect([status, body.code, body.field]).toEqual([400, 'EMBEDDING_INVALID', 'resources[2].embedding'])
    expect(embedCalls).toBe(calls)
  })

  it('answers chat from the context, streamed, with the citations that it used', async () => {
    const { body } = await node.request('POST', '/api/v1/chat', {
      body: { messages: [{ role: 'user', content: 'Where did the kitten sleep?' }] },
    })
    expect(body.choices[0].message.content).toBe('Cats purr [1].')
    expect(body.model).toBe('talker')
    expect(body.citations.map(({ n }: { n: number }) => n)).toEqual([1])
    expect(lastChat.messages[0]!.content).toContain('A kitten slept on the sofa.')
  })

  it('may be away: resources are stored, found by words, marked pending, and embedded by a job when it is back', async () => {
    down = true
    const { status, body } = await post('The cat is out of the bag.')
    expect([status, body.pending]).toEqual([201, 1])
    expect((await node.request('GET', `/api/v1/resources/${body.ids[0]}`)).body.embedding).toBe('pending')
    const found = await search('query=bag')
    expect(found.results[0].id).toBe(body.ids[0])
    expect(found.warnings[0]).toMatch(/words only/)
    const vector = await search('query=bag&mode=vector')
    expect([vector.status, vector.code]).toEqual([503, 'EMBEDDING_UNAVAILABLE'])
    expect(JSON.stringify([found, vector])).not.toContain('key-that-stays-secret')
    expect((await search('embedding=pending')).results.length).toBe(1)
    const chat = await node.request('POST', '/api/v1/chat', {
      body: { messages: [{ role: 'user', content: 'the cat and the bag?' }] },
    })
    expect([chat.status, chat.body.code]).toEqual([503, 'CHAT_UNAVAILABLE'])
    down = false
    await eventually(
      'the embed job has run',
      async () => (await node.request('GET', `/api/v1/resources/${body.ids[0]}`)).body.embedding === 'stored',
      40_000,
    )
    expect(
      (await search('query=feline&mode=vector&limit=5')).results.some(({ id }: { id: string }) => id === body.ids[0]),
    ).toBe(true)
    expect((await search('embedding=pending')).results).toEqual([])
  })
})
