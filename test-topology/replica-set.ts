import { setTimeout as sleep } from 'node:timers/promises'
import type { Program } from '../src/cluster/processes.ts'
import type { ScaleTarget } from './autoscaler/autoscaler.ts'

export interface ReplicaSetOptions {
  /** In the order of their ordinals: the highest goes first, as with a StatefulSet. */
  readonly programs: readonly Program[]
  readonly restartMs: number
  /** Its machine is gone: it cannot be started now. */
  readonly isDown: (name: string) => boolean
  readonly onScale: (from: number, to: number, reason: string) => void
  /** Another set of processes exists now. */
  readonly onChange: () => void
  readonly onProblem: (text: string) => void
}

/** Processes in place of pods: as many as are wanted are started, started again when they end, and told to stop when they are too many. */
export class ReplicaSet implements ScaleTarget {
  readonly #options: ReplicaSetOptions
  readonly #stopping = new Map<string, Promise<void>>()
  readonly #restarting = new Set<string>()
  #wanted = 0
  #isStopped = false

  constructor(options: ReplicaSetOptions) {
    this.#options = options
    for (const program of options.programs) program.onExit = (name, reason) => this.ended(name, reason)
  }

  get wanted(): number {
    return this.#wanted
  }

  get present(): number {
    return this.#options.programs.filter(({ isRunning }) => isRunning).length
  }

  has(name: string): boolean {
    return this.#options.programs.some(({ spec }) => spec.name === name)
  }

  isPresent(name: string): boolean {
    return this.#options.programs.some(program => program.spec.name === name && program.isRunning)
  }

  wantedPrograms(): readonly Program[] {
    return this.#options.programs.slice(0, this.#wanted)
  }

  scale(replicas: number, reason: string): void {
    const to = Math.min(replicas, this.#options.programs.length)
    if (to === this.#wanted) return
    this.#options.onScale(this.#wanted, to, reason)
    this.#wanted = to
    this.reconcile()
  }

  /** Starts what is missing and stops what is too much. */
  reconcile(): void {
    if (this.#isStopped) return
    for (const [n, program] of this.#options.programs.entries()) {
      const { name } = program.spec
      const isWanted = n < this.#wanted && !this.#options.isDown(name)
      if (isWanted && !program.isRunning && !this.#restarting.has(name) && !this.#stopping.has(name)) {
        program.launch()
        this.#options.onChange()
      } else if (!isWanted && program.isRunning && !this.#stopping.has(name)) this.#terminate(program)
    }
  }

  /** Stops one that is wanted; it is started again, as in a rolling update. Resolves when the new one is ready. */
  async restart(name: string): Promise<void> {
    const program = this.#options.programs.find(({ spec }) => spec.name === name)!
    this.#terminate(program)
    await this.#stopping.get(name)
    await this.whenReady(name)
  }

  async whenReady(name?: string, msMax = 60_000): Promise<void> {
    const { programs } = this.#options
    const waited = programs.slice(0, this.#wanted).filter(({ spec }) => name === undefined || spec.name === name)
    const until = Date.now() + msMax
    for (const program of waited)
      while (!(program.isRunning && (await isReady(program)))) {
        if (Date.now() > until) await program.whenReady(1)
        await sleep(50)
      }
  }

  async count(): Promise<{ wanted: number; present: number; ready: number }> {
    const running = this.#options.programs.filter(({ isRunning }) => isRunning)
    const ready = await Promise.all(running.map(isReady))
    return { wanted: this.#wanted, present: running.length, ready: ready.filter(Boolean).length }
  }

  /** From now on nothing is started or stopped any more. */
  stop(): void {
    this.#isStopped = true
  }

  #terminate(program: Program): void {
    const { name } = program.spec
    const stopping = program.stop().then(() => {
      this.#stopping.delete(name)
      this.#options.onChange()
      this.reconcile()
    })
    this.#stopping.set(name, stopping)
  }

  /** One ended that was wanted; it is started again after a while. */
  ended(name: string, reason: string): void {
    if (this.#isStopped || this.#stopping.has(name)) return
    this.#options.onProblem(`${name}: ${reason}`)
    this.#options.onChange()
    this.#restarting.add(name)
    void sleep(this.#options.restartMs).then(() => {
      this.#restarting.delete(name)
      this.reconcile()
    })
  }
}

const isReady = (program: Program): Promise<boolean> => program.spec.ready().catch(() => false)
