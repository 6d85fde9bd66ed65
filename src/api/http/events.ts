import type { FastifyReply } from 'fastify'
import { PercolateError } from '../../base/errors.ts'
import type { ChangeEvent } from '../operations/changes.ts'
import type { SlowReaders } from '../slow-readers.ts'

/**
 * Sends a feed as server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html): `id` is the cursor, heartbeats are comments. The first event decides the status: an
 * error before it is a plain problem answer. A reader that takes nothing for as long as {@link SlowReaders} allow is cut off; it can come back with its last event id.
 */
export async function sendEvents(
  reply: FastifyReply,
  events: AsyncGenerator<ChangeEvent>,
  readers: SlowReaders,
): Promise<void> {
  const first = await events.next()
  reply.hijack()
  const { raw } = reply
  const headers: Record<string, string | number | string[]> = {}
  for (const [name, value] of Object.entries(reply.getHeaders())) if (value !== undefined) headers[name] = value
  raw.writeHead(200, {
    ...headers,
    'content-type': 'text/event-stream; charset=utf-8',
    'cache-control': 'no-cache, no-transform',
    'x-accel-buffering': 'no',
  })
  raw.write('retry: 1000\n\n')
  try {
    for (let next = first; !next.done && !raw.destroyed; next = await events.next())
      if (!raw.write(textOf(next.value)) && !(await readers.keepsUp(raw))) return void raw.destroy()
  } catch (error) {
    if (error instanceof PercolateError) raw.write(errorEvent(error))
  } finally {
    await events.return(undefined)
    raw.end()
  }
}

/** How a feed that has begun says why it ends. */
export const errorEvent = ({ code, message, extra }: PercolateError): string =>
  `event: error\ndata: ${JSON.stringify({ code, detail: message, ...extra })}\n\n`

const textOf = ({ cursor, changes }: ChangeEvent): string =>
  changes === undefined
    ? `: heartbeat\nid: ${cursor}\n\n`
    : `id: ${cursor}\nevent: change\ndata: ${JSON.stringify({ changes })}\n\n`
