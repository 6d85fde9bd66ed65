import { createServer, type Server, type ServerResponse } from 'node:http'

const DIMENSIONS = 8

/** An embedding provider (OpenAI's `POST /embeddings`) that answers as a test wants it to: at once, late, or not at all. */
export class Provider {
  readonly #waiting = new Set<() => void>()
  readonly #host: string
  #server: Server | undefined
  #delayMs: number | 'never' = 0
  requests = 0
  port = 0

  constructor(host: string) {
    this.#host = host
  }

  get url(): string {
    return `http://${this.#host}:${this.port}`
  }

  /** Requests that wait for an answer. */
  get waiting(): number {
    return this.#waiting.size
  }

  async start(): Promise<this> {
    const server = createServer((request, response) => {
      let text = ''
      request.setEncoding('utf8').on('data', (part: string) => {
        text += part
      })
      request.once('end', () => void this.#answer(text, response))
    })
    await new Promise<void>(resolve => server.listen(0, this.#host, resolve))
    this.#server = server
    this.port = (server.address() as { port: number }).port
    return this
  }

  /** From now on; what waits already goes on waiting until {@link release}. */
  delay(ms: number | 'never'): void {
    this.#delayMs = ms
  }

  /** Answers everything that waits, and what comes from now on at once. */
  release(): void {
    this.#delayMs = 0
    for (const answer of this.#waiting) answer()
  }

  async stop(): Promise<void> {
    this.release()
    this.#server?.closeAllConnections()
    await new Promise(resolve => this.#server?.close(resolve))
  }

  async #answer(text: string, response: ServerResponse): Promise<void> {
    this.requests++
    const delayMs = this.#delayMs
    if (delayMs !== 0) {
      await new Promise<void>(resolve => {
        const timer = delayMs === 'never' ? undefined : setTimeout(() => end(), delayMs)
        const end = () => {
          clearTimeout(timer)
          this.#waiting.delete(end)
          resolve()
        }
        this.#waiting.add(end)
        response.once('close', end)
      })
    }
    const { input } = JSON.parse(text) as { input: readonly string[] }
    const data = input.map((_, index) => ({
      index,
      embedding: Array.from({ length: DIMENSIONS }, (_, n) => (n === index % DIMENSIONS ? 1 : 0.1)),
    }))
    response.setHeader('content-type', 'application/json').end(JSON.stringify({ data }))
  }
}
