/**
 * What a client that remembers everything saw, and what must hold of it. Each register (a property of an entity) has one writer, which writes values `1, 2, 3…`; a delete writes no value.
 */
export interface WriteEvent {
  readonly tenant: string
  readonly entity: string
  readonly action: 'put' | 'delete' | 'conditional'
  readonly value: number
  /** By a clock that never goes back. */
  readonly calledAtMs?: number
  /** Undefined: no answer came, or one that leaves open what happened. */
  readonly acked: { readonly clock: string; readonly reached: string; readonly node: string } | undefined
}

export interface ReadEvent {
  readonly tenant: string
  readonly entity: string
  /** The write whose bookmark the read carried. */
  readonly bookmarkValue: number
  readonly seen: number | undefined
}

export interface ClusterHistory {
  readonly writes: WriteEvent[]
  readonly reads: ReadEvent[]
}

/** The value of an entity's register at the end, on every node that was asked. */
export type FinalState = ReadonlyMap<string, readonly (number | undefined)[]>

const nameOf = ({ tenant, entity }: { tenant: string; entity: string }) => `${tenant}/${entity}`

export function checkHistory(history: ClusterHistory, final: FinalState): string[] {
  const violations: string[] = []
  const byEntity = new Map<string, WriteEvent[]>()
  for (const write of history.writes) byEntity.set(nameOf(write), [...(byEntity.get(nameOf(write)) ?? []), write])
  for (const [name, writes] of byEntity) {
    const values = final.get(name)
    if (!values || values.length === 0) {
      violations.push(`${name} was not read at the end`)
      continue
    }
    if (new Set(values).size > 1) violations.push(`${name} differs between nodes: ${values.join(', ')}`)
    const problem = judge(writes, values[0])
    if (problem) violations.push(`${name}: ${problem}`)
  }
  for (const read of history.reads) {
    const writes = byEntity.get(nameOf(read)) ?? []
    const from = writes.findIndex(write => write.value === read.bookmarkValue)
    const floor = writes[from]?.acked?.clock
    // What was acknowledged at a later clock, and what may have happened, may show instead.
    const allowed = writes.filter(
      (write, n) => write.acked === undefined || n === from || (floor !== undefined && write.acked.clock >= floor),
    )
    const isDeleted = allowed.some(({ action }) => action === 'delete')
    if (read.seen === undefined ? !isDeleted : !allowed.some(({ value }) => value === read.seen))
      violations.push(
        `${nameOf(read)}: a read with the bookmark of ${read.bookmarkValue} saw ${read.seen ?? 'nothing'}`,
      )
  }
  return violations
}

/** Undefined when the value at the end can be explained: the latest acknowledged clock, or a write whose fate is open. */
function judge(writes: readonly WriteEvent[], value: number | undefined): string | undefined {
  const acked = writes.filter(write => write.acked !== undefined)
  const latest = [...acked].sort((a, b) => (a.acked!.clock < b.acked!.clock ? -1 : 1)).at(-1)
  const open = writes.filter(write => write.acked === undefined)
  if (!latest) return undefined
  if (value === undefined) {
    if (latest.action === 'delete' || open.some(({ action }) => action === 'delete')) return undefined
    return `the write of ${latest.value}, acknowledged as ${latest.acked!.reached} by ${latest.acked!.node}, is lost: nothing is there`
  }
  if (latest.action !== 'delete' && value === latest.value) return undefined
  const shown = writes.find(write => write.value === value)
  if (!shown) return `the value ${value} was never written`
  if (shown.acked === undefined) return undefined
  if (latest.action === 'delete') return `${value} is back from before its acknowledged delete`
  return `the write of ${latest.value}, acknowledged as ${latest.acked!.reached} by ${latest.acked!.node}, is lost: ${value} is there`
}
