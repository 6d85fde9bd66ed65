import { createParser } from 'eventsource-parser'
import { PercolateError } from '../base/errors.ts'
import { timeoutSignal } from '../base/timeout.ts'

export interface ChatModelOptions {
  readonly url: string
  readonly model: string
  readonly apiKey: string | undefined
  readonly timeoutMs: number
}

export interface ChatMessage {
  readonly role: string
  readonly content: string
}

const ANSWER_CHARS_MAX = 1024 * 1024

/** An OpenAI-compatible chat endpoint (https://platform.openai.com/docs/api-reference/chat), always read as a stream. */
export class ChatModel {
  readonly #options: ChatModelOptions

  constructor(options: ChatModelOptions) {
    this.#options = options
  }

  get name(): string {
    return this.#options.model
  }

  /** Yields pieces of the answer. Throws CHAT_UNAVAILABLE when the endpoint fails, also in the middle. */
  async *answer(
    messages: readonly ChatMessage[],
    settings: { temperature?: number | undefined; maxTokens?: number | undefined },
    signal: AbortSignal,
  ): AsyncGenerator<string> {
    const { url, model, apiKey, timeoutMs } = this.#options
    const body = {
      model,
      messages,
      stream: true,
      ...(settings.temperature === undefined ? {} : { temperature: settings.temperature }),
      ...(settings.maxTokens === undefined ? {} : { max_tokens: settings.maxTokens }),
    }
    let response: Response
    try {
      response = await fetch(`${url.replace(/\/+$/, '')}/chat/completions`, {
        method: 'POST',
        headers: {
          'content-type': 'application/json',
          ...(apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` }),
        },
        body: JSON.stringify(body),
        signal: AbortSignal.any([signal, timeoutSignal(timeoutMs)]),
      })
    } catch (cause) {
      throw new PercolateError('CHAT_UNAVAILABLE', 'The chat model does not answer.', { cause })
    }
    if (!response.ok || !response.body) {
      await response.body?.cancel()
      throw new PercolateError('CHAT_UNAVAILABLE', `The chat model answered with status ${response.status}.`)
    }
    yield* readPieces(response)
  }
}

async function* readPieces(response: Response): AsyncGenerator<string> {
  if (response.headers.get('content-type')?.includes('application/json')) {
    const whole = (await response.json()) as { choices?: { message?: { content?: unknown } }[] }
    const content = whole.choices?.[0]?.message?.content
    if (typeof content !== 'string')
      throw new PercolateError('CHAT_UNAVAILABLE', "The chat model's answer has no content.")
    yield content
    return
  }
  const pieces: string[] = []
  let failed = false
  const parser = createParser({
    onEvent: ({ data }) => {
      if (data === '[DONE]') return
      try {
        const piece = (JSON.parse(data) as { choices?: { delta?: { content?: unknown } }[] }).choices?.[0]?.delta
          ?.content
        if (typeof piece === 'string') pieces.push(piece)
      } catch {
        failed = true
      }
    },
  })
  const decoder = new TextDecoder()
  let characters = 0
  try {
    for await (const bytes of response.body as unknown as AsyncIterable<Uint8Array>) {
      parser.feed(decoder.decode(bytes, { stream: true }))
      while (pieces.length > 0) {
        const piece = pieces.shift()!
        characters += piece.length
        yield piece
      }
      if (characters > ANSWER_CHARS_MAX) break
    }
  } catch (cause) {
    throw new PercolateError('CHAT_UNAVAILABLE', 'The chat model broke off its answer.', { cause })
  }
  if (failed && characters === 0)
    throw new PercolateError('CHAT_UNAVAILABLE', "The chat model's answer is not what its API promises.")
}
