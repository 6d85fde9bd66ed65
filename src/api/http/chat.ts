import type { FastifyReply } from 'fastify'
import { toPercolateError, toProblem } from '../../base/errors.ts'
import type { ChatReply } from '../operations/chat.ts'
import type { SlowReaders } from '../slow-readers.ts'

const CHARS_PER_TOKEN = 4

/** Estimated: tokenizers differ, and the answer may come from no model at all. */
function usageOf(promptChars: number, answerChars: number) {
  const [prompt, completion] = [promptChars, answerChars].map(chars => Math.ceil(chars / CHARS_PER_TOKEN)) as [
    number,
    number,
  ]
  return { prompt_tokens: prompt, completion_tokens: completion, total_tokens: prompt + completion }
}

/** OpenAI's answer shapes: one `chat.completion`, or `chat.completion.chunk` events that end with `[DONE]`. Both carry `citations`. */
export async function sendChat(
  reply: FastifyReply,
  answer: ChatReply,
  stream: boolean,
  readers: SlowReaders,
): Promise<FastifyReply> {
  const head = { id: answer.id, created: answer.createdS, model: answer.model }
  if (!stream) {
    let content = ''
    let citations: unknown = []
    for await (const piece of answer.pieces) {
      content += piece.text
      citations = piece.citations ?? citations
    }
    const choices = [{ index: 0, message: { role: 'assistant', content }, finish_reason: 'stop' }]
    return reply.send({
      ...head,
      object: 'chat.completion',
      choices,
      citations,
      usage: usageOf(answer.promptChars, content.length),
    })
  }
  const pieces = answer.pieces[Symbol.asyncIterator]()
  // An error before the first piece is still an ordinary error answer.
  const first = await pieces.next()
  reply.hijack()
  const raw = reply.raw
  for (const [name, value] of Object.entries(reply.getHeaders())) if (value !== undefined) raw.setHeader(name, value)
  raw.writeHead(200, {
    'content-type': 'text/event-stream; charset=utf-8',
    'cache-control': 'no-cache',
    'x-accel-buffering': 'no',
  })
  const send = async (data: unknown) => {
    if (raw.destroyed) return
    const isFull = !raw.write(`data: ${typeof data === 'string' ? data : JSON.stringify(data)}\n\n`)
    if (isFull && !(await readers.keepsUp(raw))) raw.destroy()
  }
  const chunk = (delta: object, finish: string | null, extra: object = {}) => ({
    ...head,
    object: 'chat.completion.chunk',
    choices: [{ index: 0, delta, finish_reason: finish }],
    ...extra,
  })
  try {
    let characters = 0
    await send(chunk({ role: 'assistant', content: '' }, null))
    for (let next = first; !next.done && !raw.destroyed; next = await pieces.next()) {
      const { text, citations } = next.value
      if (text !== '') await send(chunk({ content: text }, null))
      characters += text.length
      if (citations) await send(chunk({}, 'stop', { citations, usage: usageOf(answer.promptChars, characters) }))
    }
    await send('[DONE]')
  } catch (error) {
    const problem = toProblem(toPercolateError(error))
    reply.log.warn({ code: problem.code }, 'chat stream broke off')
    await send({ error: problem })
  } finally {
    await pieces.return?.()
  }
  raw.end()
  return reply
}
