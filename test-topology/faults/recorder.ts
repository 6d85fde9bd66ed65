import { writeFile } from 'node:fs/promises'
import type { ClusterHistory, WriteEvent } from '../history.ts'
import type { RegisterOperation } from '../linearizable.ts'
import type { Outcome } from './doors.ts'

/** A resource that was acknowledged, or may have been written. */
export interface ResourceWrite {
  readonly tenant: string
  readonly id: string
  readonly content: string
  readonly reached: string
  readonly node: string
  readonly clock: string
  readonly calledAtMs: number
}

/** A node's disk went bad: what it acknowledged at `local` in that time may not have been published, and need not survive. */
export interface Loss {
  readonly tenant: string
  readonly node: string
  readonly fromMs: number
  untilMs: number
}

/** The streams were lost: what was decided shortly before may be on the home's disk alone, although the stream had acknowledged it, and the next home need not know it. */
export interface Forgetting {
  readonly fromMs: number
  readonly untilMs: number
}

/** Everything that the clients of a run saw. */
export class Recorder {
  readonly history: ClusterHistory = { writes: [], reads: [] }
  readonly resources: ResourceWrite[] = []
  /** By `tenant/entity`. */
  readonly conditional = new Map<string, RegisterOperation[]>()
  readonly #losses: Loss[] = []
  readonly forgettings: Forgetting[] = []
  readonly refused = new Map<string, number>()
  readonly protocols = new Map<string, number>()
  #state: number

  constructor(seed: number) {
    this.#state = seed
  }

  /** From 0 to 1; the same for a seed as long as the clients ask in the same order. */
  random(): number {
    this.#state = (Math.imul(this.#state, 1664525) + 1013904223) >>> 0
    return this.#state / 4294967296
  }

  oneOf<T>(list: readonly T[]): T {
    return list[Math.floor(this.random() * list.length)]!
  }

  note(what: string): void {
    this.refused.set(what, (this.refused.get(what) ?? 0) + 1)
  }

  /** Counts what was answered, by protocol. */
  answered(door: string): void {
    const protocol = door.split(' ')[0]!
    this.protocols.set(protocol, (this.protocols.get(protocol) ?? 0) + 1)
  }

  /** A write is about to be sent; call the result with what it came to. */
  write(event: Omit<WriteEvent, 'acked' | 'calledAtMs'>): (outcome: Outcome) => void {
    const begun: WriteEvent = { ...event, calledAtMs: performance.now(), acked: undefined }
    const at = this.history.writes.push(begun) - 1
    return outcome => {
      if (outcome.kind === 'done') {
        const { clock, reached, node } = outcome
        this.history.writes[at] = { ...begun, acked: { clock, reached, node } }
        return
      }
      this.note(outcome.code)
      // A write that was refused is none; its place stays, so that the others keep theirs.
      if (outcome.kind === 'refused') this.history.writes[at] = { ...begun, action: 'put', value: -1 }
    }
  }

  /** Until `untilMs` of what this gives is set, the time goes on. */
  mayLose(tenant: string, node: string, fromMs: number): Loss {
    const loss = { tenant, node, fromMs, untilMs: Number.POSITIVE_INFINITY }
    this.#losses.push(loss)
    return loss
  }

  /** Whether a write was acknowledged at `local` by a node whose disk went bad then. */
  wasLosable(tenant: string, { reached, node }: { reached: string; node: string }, calledAtMs: number): boolean {
    return (
      reached === 'local' &&
      this.#losses.some(
        loss => loss.tenant === tenant && loss.node === node && calledAtMs >= loss.fromMs && calledAtMs <= loss.untilMs,
      )
    )
  }

  /** For whoever wants to know how a violation came about. */
  async save(path: string): Promise<void> {
    const { history, resources } = this
    const conditional = Object.fromEntries(this.conditional)
    await writeFile(path, JSON.stringify({ startedAtMs: performance.timeOrigin, history, resources, conditional }))
  }

  /** The history with the writes that need not survive as ones that nobody knows the fate of. */
  get promised(): ClusterHistory {
    const writes = this.history.writes.map(write =>
      write.acked && this.wasLosable(write.tenant, write.acked, write.calledAtMs ?? 0)
        ? { ...write, acked: undefined }
        : write,
    )
    return { writes, reads: this.history.reads }
  }

  /** An operation on an entity that several clients write under conditions. */
  operation(tenant: string, entity: string, operation: RegisterOperation): void {
    const name = `${tenant}/${entity}`
    this.conditional.set(name, [...(this.conditional.get(name) ?? []), operation])
  }
}
