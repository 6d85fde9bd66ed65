import { errorMessage, PercolateError } from './errors.ts'

export interface ProbeResult {
  readonly name: string
  readonly ok: boolean
  /** A sentence for an operator; never an address, a path or a secret. */
  readonly detail?: string
}

/** Throws when not ready; the message becomes the probe's detail only when it is a PercolateError, so that nothing internal leaks. */
export type Probe = () => Promise<void> | void

/** How long `/ready` waits for a probe that has answered before: routers look every second or so, and give up soon. */
const WAIT_MS_MAX = 250

interface Entry {
  readonly name: string
  readonly probe: Probe
  readonly isRequired: boolean
  running?: Promise<ProbeResult> | undefined
  last?: ProbeResult
}

/**
 * The registry of named readiness probes behind `/ready` and the gRPC health service. A probe that does not answer at once counts as it did last, until it has answered or its time is up: a service
 * that hangs must not make the answer come too late for who asks.
 */
export class Probes {
  readonly #entries = new Map<string, Entry>()
  readonly #timeoutMs: number

  constructor(timeoutMs: number) {
    this.#timeoutMs = timeoutMs
  }

  /** A probe that is not required is shown, and does not make the process not ready: it can do part of its work. */
  add(name: string, probe: Probe, options: { required?: boolean } = {}): void {
    this.#entries.set(name, { name, probe, isRequired: options.required !== false })
  }

  async check(): Promise<{ ready: boolean; probes: ProbeResult[] }> {
    const entries = [...this.#entries.values()]
    const probes = await Promise.all(entries.map(entry => this.#ask(entry)))
    return { ready: probes.every(({ ok }, n) => ok || !entries[n]!.isRequired), probes }
  }

  async #ask(entry: Entry): Promise<ProbeResult> {
    entry.running ??= this.#run(entry).then(result => {
      entry.running = undefined
      entry.last = result
      return result
    })
    const { running, last } = entry
    return last ? within(WAIT_MS_MAX, running, () => last) : running
  }

  async #run({ name, probe }: Entry): Promise<ProbeResult> {
    try {
      const answer = Promise.resolve().then(probe)
      await within(this.#timeoutMs, answer, () => {
        throw new PercolateError('DEADLINE_EXCEEDED', 'no answer in time')
      })
      return { name, ok: true }
    } catch (error) {
      return { name, ok: false, detail: error instanceof PercolateError ? errorMessage(error) : 'failed' }
    }
  }
}

/** What a promise comes to, or `late()` when that takes too long. */
async function within<T>(ms: number, promise: Promise<T>, late: () => T): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const timeout = new Promise<undefined>(resolve => {
    timer = setTimeout(() => resolve(undefined), ms)
  })
  try {
    return await Promise.race([promise, timeout.then(late)])
  } finally {
    clearTimeout(timer)
  }
}
