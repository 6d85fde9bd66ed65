import type { IncomingMessage, ServerResponse } from 'node:http'
import { PercolateError } from '../../base/errors.ts'
import { feedsEnd } from '../feed-places.ts'
import { errorEvent } from './events.ts'

const BETWEEN_EVENTS = '\n\n'
const ID = /(?:^|\n)id: ([^\n]*)/g

/**
 * Sends the events of another node on, whole ones only, so that an error event can be the last of them: when this node drains, and when the other one breaks off. Both tell the cursor of the last event that went out.
 */
export function passEvents(answer: IncomingMessage, raw: ServerResponse, closing: AbortSignal): void {
  let rest = ''
  let cursor: string | undefined
  answer.setEncoding('utf8')
  const end = (error?: PercolateError) => {
    closing.removeEventListener('abort', drain)
    answer.off('data', take)
    answer.off('end', finish)
    if (raw.writableEnded) return
    raw.end(error && errorEvent(error))
  }
  const drain = () => end(feedsEnd(cursor))
  const finish = () => end()
  const take = (text: string) => {
    const whole = (rest + text).lastIndexOf(BETWEEN_EVENTS) + BETWEEN_EVENTS.length
    if (whole < BETWEEN_EVENTS.length) {
      rest += text
      return
    }
    const events = (rest + text).slice(0, whole)
    rest = (rest + text).slice(whole)
    for (const [, id] of events.matchAll(ID)) cursor = id
    if (raw.write(events)) return
    answer.pause()
    raw.once('drain', () => answer.resume())
  }
  answer.on('data', take)
  answer.once('end', finish)
  answer.once('error', () =>
    end(
      new PercolateError(
        'NODE_UNAVAILABLE',
        'The node that this feed came from broke off; follow on from the cursor.',
        {
          ...(cursor === undefined ? {} : { extra: { cursor } }),
        },
      ),
    ),
  )
  raw.once('close', () => closing.removeEventListener('abort', drain))
  if (closing.aborted) drain()
  else closing.addEventListener('abort', drain, { once: true })
}
