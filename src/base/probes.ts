import { errorMessage, PercolateError } from './errors.ts'

export interface ProbeResult {
  readonly name: string
  readonly ok: boolean
  /** A sentence for an operator; never an address, a path or a secret. */
  readonly detail?: string
}

/** Throws when not ready; the message becomes the probe's detail only when it is a PercolateError, so that nothing internal leaks. */
export type Probe = () => Promise<void> | void

/** The registry of named readiness probes behind `/ready` and the gRPC health service. */
export class Probes {
  readonly #probes = new Map<string, Probe>()
  readonly #optional = new Set<string>()
  readonly #timeoutMs: number

  constructor(timeoutMs: number) {
    this.#timeoutMs = timeoutMs
  }

  /** A probe that is not required is shown, and does not make the process not ready: it can do part of its work. */
  add(name: string, probe: Probe, options: { required?: boolean } = {}): void {
    this.#probes.set(name, probe)
    if (options.required === false) this.#optional.add(name)
  }

  async check(): Promise<{ ready: boolean; probes: ProbeResult[] }> {
    const probes = await Promise.all([...this.#probes].map(([name, probe]) => this.#run(name, probe)))
    return { ready: probes.every(probe => probe.ok || this.#optional.has(probe.name)), probes }
  }

  async #run(name: string, probe: Probe): Promise<ProbeResult> {
    let timer: NodeJS.Timeout | undefined
    const timeout = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new PercolateError('DEADLINE_EXCEEDED', 'no answer in time')), this.#timeoutMs)
    })
    try {
      await Promise.race([Promise.resolve().then(probe), timeout])
      return { name, ok: true }
    } catch (error) {
      return { name, ok: false, detail: error instanceof PercolateError ? errorMessage(error) : 'failed' }
    } finally {
      clearTimeout(timer)
    }
  }
}
