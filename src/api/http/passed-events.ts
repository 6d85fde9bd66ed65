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
  /** The pieces of an event that has not come whole. */
  let rest: string[] = []
  let endsLine = false
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
    // What has been looked at is not looked at again: an event may come in many pieces.
    const last = text.lastIndexOf(BETWEEN_EVENTS)
    const whole = last >= 0 ? last + BETWEEN_EVENTS.length : endsLine && text.startsWith('\n') ? 1 : 0
    endsLine = text.endsWith('\n')
    if (whole === 0) {
      rest.push(text)
      return
    }
    const events = rest.join('') + text.slice(0, whole)
    rest = [text.slice(whole)]
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
