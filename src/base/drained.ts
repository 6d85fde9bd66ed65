import type { EventEmitter } from 'node:events'

/** How a wait for a reader ended: it took what was waiting, it went away, or it took nothing for too long. */
export type Drained = 'drained' | 'gone' | 'stalled'

/** Waits until a stream that said it is full emits `drain`, at most `stallMsMax`; `close` of it or the signal mean that nobody reads any more. */
export function drained(stream: EventEmitter, stallMsMax: number, signal?: AbortSignal): Promise<Drained> {
  return new Promise(resolve => {
    const settle = (how: Drained) => {
      clearTimeout(timer)
      stream.off('drain', onDrain)
      stream.off('close', onGone)
      signal?.removeEventListener('abort', onGone)
      resolve(how)
    }
    const onDrain = () => settle('drained')
    const onGone = () => settle('gone')
    const timer = setTimeout(() => settle('stalled'), stallMsMax)
    stream.once('drain', onDrain)
    stream.once('close', onGone)
    signal?.addEventListener('abort', onGone)
    if (signal?.aborted) onGone()
  })
}
