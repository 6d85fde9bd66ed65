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

/** Whether a process is ready when the probe fails: never, always, or unless its copies are asked for. */
type Requirement = boolean | 'copies'

interface Entry {
  readonly name: string
  readonly probe: Probe
  readonly required: Requirement
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

  /**
   * A probe that is not required is shown, and does not make the process not ready: it can do part of its work. One that is required for `copies` does so only for whoever takes processes away one after another,
   * and has to know that this one's data is back, not only its door.
   */
  add(name: string, probe: Probe, options: { required?: Requirement } = {}): void {
    this.#entries.set(name, { name, probe, required: options.required ?? true })
  }

  async check(options: { copies?: boolean } = {}): Promise<{ ready: boolean; probes: ProbeResult[] }> {
    const isRequired = ({ required }: Entry) => required === true || (required === 'copies' && options.copies === true)
    const entries = [...this.#entries.values()]
    const probes = await Promise.all(entries.map(entry => this.#ask(entry)))
    return { ready: probes.every(({ ok }, n) => ok || !isRequired(entries[n]!)), probes }
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
