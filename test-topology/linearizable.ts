/**
 * Is a history of conditional writes of one entity linearizable? A search after Wing and Gong with Lowe's memory of visited states, as in Porcupine: an order in which each operation takes
 * effect at one moment between its call and its answer, and in which every answer is right.
 *
 * The entity's state is its version. Versions are names that no two writes share: an ETag, a clock, or the unique value that was written.
 */
export interface RegisterOperation {
  /** For messages only. */
  readonly name: string
  /** Any clock that all operations of the history share. */
  readonly calledAtMs: number
  /** When the answer came; operations whose answers tell nothing end never. */
  readonly answeredAtMs: number
  readonly kind:
    | /** A write that was acknowledged: its condition held at one moment, and its version took that one's place. */ 'written'
    | /** A write that was refused because its condition did not hold: at one moment the version was another. */ 'refused'
    | /** A read that promises the latest version. */ 'read'
    /**
     * A write of which nobody knows: it takes effect at one moment after its call, or never. Its condition is not vouched for, as in a 503 that says that the write may stand; lost answers are of this
     * kind too.
     */
    | 'unknown'
  /** What the condition named; undefined: a write without one. */
  readonly expected?: string | undefined
  /** What it wrote, or read. Of an unknown write that nobody ever saw: any name that nobody else uses. */
  readonly version?: string | undefined
}

export interface Linearizability {
  readonly verdict: 'linearizable' | 'violated' | 'undecided'
  /** For people: what cannot be explained. Empty when there is nothing. */
  readonly reason: string
  /** Steps that the search took. */
  readonly steps: number
}

/** Steps after which a search is given up as undecided. */
const STEPS_MAX = 200_000

interface State {
  /** Of the certain operations, ordered by call: all before this one are placed. */
  readonly first: number
  /** Certain operations from `first` on that are placed already. */
  readonly placed: readonly number[]
  /** Unknown writes that somebody saw and that are placed while who saw them is not. */
  readonly seen: readonly number[]
  /** Unknown writes that nobody saw: how many are placed, those called first. */
  readonly unseen: number
  readonly version: string
}

/**
 * Looks for an order of all operations on one entity that begins with version `initial`. Cheap for histories that have one; one that has none costs more the more of its operations overlap, and is given
 * up as undecided after `stepsMax` states.
 */
export function checkLinearizable(
  operations: readonly RegisterOperation[],
  initial: string,
  stepsMax: number = STEPS_MAX,
): Linearizability {
  const obvious = findObvious(operations, initial)
  if (obvious !== undefined) return { verdict: 'violated', reason: obvious, steps: 0 }
  return new Search(operations, initial, stepsMax).run()
}

/** What is wrong whatever the order: names the operations, which a search cannot. */
function findObvious(operations: readonly RegisterOperation[], initial: string): string | undefined {
  const written = new Set([initial])
  for (const { kind, version, name } of operations) {
    if (kind !== 'written' && kind !== 'unknown') continue
    if (version === undefined) throw new Error(`${name} wrote no version`)
    if (written.has(version)) return `${name} wrote no version of its own`
    written.add(version)
  }
  const decidedBy = new Map<string, RegisterOperation>()
  for (const operation of operations) {
    const { kind, expected, name } = operation
    if (kind === 'read' && !written.has(operation.version ?? ''))
      return `${name} read the version ${operation.version}, which nobody wrote`
    if (kind !== 'written' || expected === undefined) continue
    if (!written.has(expected)) return `${name} was acknowledged on the version ${expected}, which nobody wrote`
    const other = decidedBy.get(expected)
    if (other) return `${other.name} and ${name} were both acknowledged on the version ${expected}`
    decidedBy.set(expected, operation)
  }
  return undefined
}

class Search {
  readonly #initial: string
  readonly #stepsMax: number
  readonly #certain: readonly RegisterOperation[]
  /** Unknown writes whose version a certain operation needs, and the certain operations that do. */
  readonly #seen: readonly { readonly operation: RegisterOperation; readonly by: readonly number[] }[]
  readonly #unseen: readonly RegisterOperation[]
  readonly #visited = new Set<string>()

  constructor(operations: readonly RegisterOperation[], initial: string, stepsMax: number) {
    this.#initial = initial
    this.#stepsMax = stepsMax
    const byCall = [...operations].sort((a, b) => a.calledAtMs - b.calledAtMs)
    this.#certain = byCall.filter(({ kind }) => kind !== 'unknown')
    const needed = new Map<string, number[]>()
    for (const [n, { kind, expected, version }] of this.#certain.entries()) {
      const name = kind === 'written' ? expected : kind === 'read' ? version : undefined
      if (name !== undefined) needed.set(name, [...(needed.get(name) ?? []), n])
    }
    const unknown = byCall.filter(({ kind }) => kind === 'unknown')
    this.#seen = unknown.flatMap(operation => {
      const by = needed.get(operation.version!)
      return by ? [{ operation, by }] : []
    })
    this.#unseen = unknown.filter(({ version }) => !needed.has(version!))
  }

  run(): Linearizability {
    const waiting: State[] = [{ first: 0, placed: [], seen: [], unseen: 0, version: this.#initial }]
    let deepest = waiting[0]!
    let steps = 0
    for (let state = waiting.pop(); state; state = waiting.pop()) {
      if (state.first >= this.#certain.length) return { verdict: 'linearizable', reason: '', steps }
      if (++steps > this.#stepsMax)
        return { verdict: 'undecided', reason: `no order was found in ${this.#stepsMax} steps`, steps }
      if (state.first + state.placed.length >= deepest.first + deepest.placed.length) deepest = state
      // The last one pushed is tried first: certain operations before unknown ones.
      for (const next of [...this.#unknownNext(state), ...this.#certainNext(state)]) {
        const name = nameOf(next)
        if (this.#visited.has(name)) continue
        this.#visited.add(name)
        waiting.push(next)
      }
    }
    return { verdict: 'violated', reason: this.#explain(deepest), steps }
  }

  /** Certain operations that may come next: called before any that is left was answered. */
  #candidates({ first, placed }: State): number[] {
    const found: number[] = []
    let answeredMs = Number.POSITIVE_INFINITY
    for (let n = first; n < this.#certain.length; n++) {
      const { calledAtMs, answeredAtMs } = this.#certain[n]!
      if (calledAtMs > answeredMs) break
      if (placed.includes(n)) continue
      found.push(n)
      answeredMs = Math.min(answeredMs, answeredAtMs)
    }
    return found.filter(n => this.#certain[n]!.calledAtMs <= answeredMs)
  }

  #certainNext(state: State): State[] {
    const next: State[] = []
    for (const n of this.#candidates(state).reverse()) {
      const { kind, expected, version } = this.#certain[n]!
      const isAllowed =
        kind === 'refused'
          ? state.version !== expected
          : kind === 'read'
            ? state.version === version
            : expected === undefined || state.version === expected
      if (isAllowed) next.push(this.#place(state, n, kind === 'written' ? version! : state.version))
    }
    return next
  }

  #place(state: State, n: number, version: string): State {
    let { first } = state
    const placed = [...state.placed, n].sort((a, b) => a - b)
    while (placed[0] === first) {
      placed.shift()
      first++
    }
    const isPlaced = (m: number) => m < first || placed.includes(m)
    return {
      ...state,
      first,
      placed,
      version,
      seen: state.seen.filter(m => !this.#seen[m]!.by.every(isPlaced)),
    }
  }

  /** An unknown write is placed where it may help: one that was seen before who saw it, one that was not where something is refused. */
  #unknownNext(state: State): State[] {
    const candidates = this.#candidates(state)
    // All that is called by the time by which the next certain operation has to be placed.
    const untilMs = Math.min(...candidates.map(n => this.#certain[n]!.answeredAtMs))
    const next: State[] = []
    const unseen = this.#unseen[state.unseen]
    const isRefused = candidates.some(n => {
      const { kind, expected } = this.#certain[n]!
      return kind === 'refused' && expected === state.version
    })
    if (unseen && unseen.calledAtMs <= untilMs && isRefused)
      next.push({ ...state, unseen: state.unseen + 1, version: unseen.version! })
    for (const [m, { operation, by }] of this.#seen.entries()) {
      if (operation.calledAtMs > untilMs || state.seen.includes(m)) continue
      const isPlaced = (n: number) => n < state.first || state.placed.includes(n)
      // Who saw it is placed only after it.
      if (by.some(isPlaced)) continue
      next.push({ ...state, seen: [...state.seen, m].sort((a, b) => a - b), version: operation.version! })
    }
    return next
  }

  #explain(deepest: State): string {
    const left = this.#candidates(deepest)
      .slice(0, 3)
      .map(n => this.#certain[n]!)
      .map(({ name, kind, expected, version }) =>
        kind === 'read'
          ? `${name} read ${version}`
          : `${name} was ${kind === 'written' ? 'acknowledged' : 'refused'} on ${expected ?? 'any version'}`,
      )
    return `no order explains these answers: with ${deepest.first + deepest.placed.length} of ${this.#certain.length} placed, the version is ${deepest.version}, and ${left.join('; ')}`
  }
}

const nameOf = ({ first, placed, seen, unseen, version }: State): string =>
  `${first}:${placed.join(',')}:${seen.join(',')}:${unseen}:${version}`
