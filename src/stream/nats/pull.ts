import { createInbox, type Msg, type NatsConnection, nanos } from 'nats'
import { PercolateError } from '../../base/errors.ts'
import type { Delivery } from '../port.ts'

export interface PullRequest {
  readonly stream: string
  readonly consumer: string
  /** Messages at most. */
  readonly max: number
  /** How long the server waits for the first one; 0: it gives what is there. */
  readonly waitMs: number
  /** For how long the server may be silent: while it waits it says so twice as often. */
  readonly silenceMs: number
  /** Gives up waiting; what has come is returned. */
  readonly signal: AbortSignal | undefined
}

export interface Pulled {
  readonly deliveries: Delivery[]
  /** How the server ended its answer; undefined: nothing told of the end, and whoever asks anew finds out why. */
  readonly end: 'complete' | PercolateError | undefined
}

/** The statuses that say that there is no message now, or no room for one more that is not acknowledged. */
const NO_MESSAGES = 404
const EXPIRED = 408
const CONFLICT = 409
const HEARTBEAT = 100
const NO_RESPONDERS = 503

/**
 * One request for messages of a work queue. The client's own requests take silence for an empty queue, or wait for ever when the answer is lost on its way (with a server that
 * ends, say), and keep their subscription; this one ends by an answer, by its time, or by its signal, and leaves nothing behind. A message that arrives after that is delivered to
 * nobody, and comes again after the consumer's wait for acknowledgements.
 */
export function pull(connection: NatsConnection, request: PullRequest): Promise<Pulled> {
  const { stream, consumer, max, waitMs, silenceMs, signal } = request
  const deliveries: Delivery[] = []
  return new Promise(resolve => {
    const finish = (end: Pulled['end']) => {
      clearTimeout(silence)
      clearTimeout(whole)
      signal?.removeEventListener('abort', giveUp)
      if (!subscription.isClosed()) subscription.unsubscribe()
      resolve({ deliveries, end })
    }
    const giveUp = () => finish(undefined)
    const subscription = connection.subscribe(createInbox(), {
      callback: (error, message) => {
        if (error) return finish(unavailable(error.message))
        silence.refresh()
        const status = message.data.length === 0 && !isStored(message) ? message.headers?.code : undefined
        if (status === HEARTBEAT) return
        if (status !== undefined) return finish(endOf(status, message.headers?.description ?? ''))
        deliveries.push(toDelivery(connection, message, silenceMs))
        if (deliveries.length >= max) finish('complete')
      },
    })
    const silence = setTimeout(giveUp, silenceMs)
    const whole = setTimeout(giveUp, waitMs + silenceMs)
    signal?.addEventListener('abort', giveUp, { once: true })
    if (signal?.aborted) return giveUp()
    const heartbeatMs = Math.min(waitMs, silenceMs) / 2
    const wanted =
      waitMs > 0
        ? { batch: max, expires: nanos(waitMs), idle_heartbeat: nanos(heartbeatMs) }
        : { batch: max, no_wait: true }
    try {
      const reply = subscription.getSubject()
      connection.publish(`$JS.API.CONSUMER.MSG.NEXT.${stream}.${consumer}`, JSON.stringify(wanted), { reply })
    } catch {
      finish(unavailable('is not connected'))
    }
  })
}

function endOf(status: number, description: string): 'complete' | PercolateError {
  if (status === NO_MESSAGES || status === EXPIRED) return 'complete'
  if (status === CONFLICT && /maxackpending/i.test(description)) return 'complete'
  if (status === NO_RESPONDERS) return unavailable('has no such queue, or does not serve it now')
  return unavailable(`ended a request for messages: ${description} (${status})`)
}

/** Messages of a stream are answered to their own reply subject; statuses have none. */
const isStored = (message: Msg): boolean => message.reply?.startsWith('$JS.ACK.') ?? false

function toDelivery(connection: NatsConnection, message: Msg, confirmMs: number): Delivery {
  const { sequence, deliveries } = placeOf(message.reply!)
  return {
    data: Buffer.from(message.data),
    sequence,
    deliveries,
    ack: async () => {
      await connection.request(message.reply!, '+ACK', { timeout: confirmMs }).catch(cause => {
        throw new PercolateError('STREAM_UNAVAILABLE', 'NATS JetStream did not confirm an acknowledgement.', { cause })
      })
    },
    // Of a connection that is closed the server takes everything back by itself.
    release: delayMs => {
      if (!connection.isClosed())
        message.respond(delayMs > 0 ? `-NAK ${JSON.stringify({ delay: nanos(delayMs) })}` : '-NAK')
    },
    working: () => {
      if (!connection.isClosed()) message.respond('+WPI')
    },
  }
}

/** `$JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<deliveries>.<sequence in the stream>.…`: servers that know domains send both parts or none. */
function placeOf(reply: string): { sequence: number; deliveries: number } {
  const tokens = reply.split('.')
  const at = tokens.length === 9 ? 4 : 6
  return { deliveries: Number(tokens[at]), sequence: Number(tokens[at + 1]) }
}

const unavailable = (why: string): PercolateError => new PercolateError('STREAM_UNAVAILABLE', `NATS JetStream ${why}.`)
