import type { Time } from '../../base/time.ts'

/**
 * What a nats-server says about its JetStream. `well`: it answered for each of its streams. `off`: it says itself that a write failed, or that JetStream is off. `silent`: it answers for itself, before and after the
 * question, and not for its streams. `unknown`: it does not answer at all (paused, gone), is not ready yet, or says something else (no leader, no quorum, catching up).
 */
export type JetStreamFinding =
  | { readonly kind: 'well' | 'unknown' }
  | { readonly kind: 'off' | 'silent'; readonly reason: string }

/** Asks one nats-server, at its monitoring endpoint. Neither rejects. */
export interface JetStreamHealth {
  ask(signal: AbortSignal): Promise<JetStreamFinding>
  /** Whether it takes clients. */
  answers(signal: AbortSignal): Promise<boolean>
}

const ANSWER_MS_MAX = 3000
/** A server that is slow to answer for itself is slow, or its machine is: its silence about its streams shows nothing. */
const SELF_MS_MAX = 1000
/** What the server says of itself when a write without room has ended its streams, or JetStream. */
const OFF = /no space left|quota exceeded|write error|not enabled|disabled/i

/** 200 only from a server that takes clients, so when it has read its streams again; needs no lock of JetStream. */
const SELF = '/healthz?js-enabled-only=true'
/** Needs the lock of each stream and of its file: a write that failed on a full disk never gives it back (2.9). Of this server alone: it needs no leader and no quorum. */
const STREAMS = '/jsz?accounts=true&streams=true'

/** `monitorUrl` is asked for at each question: a restarted server may listen elsewhere. */
export function jetStreamHealth(monitorUrl: () => string, time: Time): JetStreamHealth {
  const get = async (path: string, msMax: number, stop: AbortSignal) => {
    // Not AbortSignal.any with AbortSignal.timeout: Node 20 collects that timeout as garbage, and the question is never given up.
    const request = new AbortController()
    const end = () => request.abort()
    stop.addEventListener('abort', end, { once: true })
    if (stop.aborted) end()
    void time.sleep(msMax, { signal: request.signal, ref: false }).then(end, () => {})
    try {
      const answer = await fetch(`${monitorUrl()}${path}`, { signal: request.signal })
      return { status: answer.status, text: await answer.text() }
    } catch {
      return undefined
    } finally {
      stop.removeEventListener('abort', end)
      end()
    }
  }
  const answers = async (signal: AbortSignal) => (await get(SELF, SELF_MS_MAX, signal))?.status === 200
  return {
    answers,
    ask: async signal => {
      const self = await get(SELF, SELF_MS_MAX, signal)
      if (!self) return { kind: 'unknown' }
      if (self.status !== 200) return offOr(self.text)
      if (!(await get(STREAMS, ANSWER_MS_MAX, signal)))
        return (await answers(signal))
          ? { kind: 'silent', reason: 'it answers for itself, and not for its streams' }
          : { kind: 'unknown' }
      const health = await get('/healthz', ANSWER_MS_MAX, signal)
      if (!health) return { kind: 'unknown' }
      return health.status === 200 ? { kind: 'well' } : offOr(health.text)
    },
  }
}

const offOr = (text: string): JetStreamFinding =>
  OFF.test(text) ? { kind: 'off', reason: text.slice(0, 300) } : { kind: 'unknown' }
