import { type Clock, compareClocks, formatClock } from '../../src/clock/hlc.ts'
import { type VersionVector, vectorToObject } from '../../src/clock/vector.ts'
import { mergeRecords } from '../../src/rem/merge.ts'
import { EMPTY_RECORD, type LwwRecord } from '../../src/rem/record.ts'
import type { Durability } from '../../src/replication/replica.ts'
import { checkLinearizable, type RegisterOperation } from '../../test-topology/linearizable.ts'

/** The version of a record that was never written. */
export const NO_VERSION = 'none'

/** What clients were told, for the checkers. */
export interface Acked {
  readonly tenant: string
  /** Kind and key of the record. */
  readonly record: string
  readonly field: string | undefined
  readonly action: 'put' | 'del'
  readonly clock: Clock
  readonly reached: Durability
  readonly disk: string
  readonly atMs: number
  readonly position: VersionVector
  /** For conditional writes: the version that the condition named. */
  readonly ifVersion: string | undefined
}

export interface Attempted {
  readonly tenant: string
  readonly record: string
  readonly action: 'put' | 'del'
  readonly clock: Clock
}

export interface History {
  readonly acked: Acked[]
  /** Also those whose answer never came: they may have happened. */
  readonly attempted: Attempted[]
  /** Disks that were lost or put back, and when the state that was lost had begun to differ. */
  readonly lostDisks: Map<string, number>
  /** Clocks of writes whose every place was lost on purpose: more was no promise. */
  readonly excused: Set<string>
  /** Versions that the stream lost after it had acknowledged them: only the disks that had read them by then have them, as those of level `local`. */
  readonly outOfStream: Set<string>
  readonly violations: string[]
  /** Conditional writes, by tenant and record. */
  readonly conditionals: Map<string, RegisterOperation[]>
}

export const newHistory = (): History => ({
  acked: [],
  attempted: [],
  lostDisks: new Map(),
  excused: new Set(),
  outOfStream: new Set(),
  violations: [],
  conditionals: new Map(),
})

/** One copy at the end. */
export interface FinalCopy {
  readonly node: string
  readonly tenant: string
  readonly records: ReadonlyMap<string, LwwRecord>
  /** Encoded bytes by name, for comparing copies. */
  readonly bytes: ReadonlyMap<string, string>
  readonly vector: VersionVector
  readonly outboxEntries: number
  readonly problems: readonly string[]
  /** Clocks of writes that were set aside. */
  readonly setAside: ReadonlyMap<string, LwwRecord>
}

/** What must hold of any history and the copies that it left; each sentence that does not. */
export function check(history: History, copies: readonly FinalCopy[]): string[] {
  const violations = [...history.violations]
  const byTenant = new Map<string, FinalCopy[]>()
  for (const copy of copies) byTenant.set(copy.tenant, [...(byTenant.get(copy.tenant) ?? []), copy])
  for (const [tenant, held] of byTenant) {
    violations.push(...differences(tenant, held))
    for (const copy of held) {
      if (copy.outboxEntries > 0)
        violations.push(`${copy.node} still has ${copy.outboxEntries} entries of ${tenant} to publish`)
      for (const problem of copy.problems) violations.push(`${copy.node}, ${tenant}: ${problem}`)
      for (const [name, record] of copy.records)
        for (const [field, { value }] of record.fields)
          if (typeof value === 'string' && value.includes('tenant:') && !value.includes(`tenant:${tenant};`))
            violations.push(`${copy.node} shows ${tenant} another tenant's ${name} ${field}`)
    }
  }
  for (const acked of history.acked) {
    const held = byTenant.get(acked.tenant)
    if (!held || held.length === 0) {
      violations.push(`${acked.tenant} has no copy left, and ${acked.record} was acknowledged`)
      continue
    }
    const lost = lossOf(acked, held[0]!, history)
    if (lost) violations.push(lost)
  }
  for (const [name, operations] of history.conditionals) {
    // Known to some disks alone again, they are not vouched for.
    const vouched = operations.map(operation =>
      operation.kind === 'written' && history.outOfStream.has(operation.version!)
        ? { ...operation, kind: 'unknown' as const, answeredAtMs: Number.POSITIVE_INFINITY }
        : operation,
    )
    const { verdict, reason } = checkLinearizable(withoutRefused(vouched), NO_VERSION)
    if (verdict !== 'linearizable') violations.push(`conditional writes of ${name}: ${reason}`)
  }
  return [...new Set(violations)]
}

function differences(tenant: string, held: readonly FinalCopy[]): string[] {
  const [first, ...others] = held
  if (!first) return []
  const found: string[] = []
  for (const other of others) {
    for (const name of new Set([...first.bytes.keys(), ...other.bytes.keys()])) {
      if (first.bytes.get(name) === other.bytes.get(name)) continue
      found.push(
        `${tenant}: ${name} differs between ${first.node} and ${other.node}: ${show(first.records.get(name))} / ${show(other.records.get(name))}`,
      )
      break
    }
    const [a, b] = [JSON.stringify(vectorToObject(first.vector)), JSON.stringify(vectorToObject(other.vector))]
    if (a !== b) found.push(`${tenant}: the vectors of ${first.node} and ${other.node} differ: ${a} / ${b}`)
  }
  return found
}

const show = (record: LwwRecord | undefined): string =>
  record
    ? JSON.stringify({
        put: record.put && formatClock(record.put),
        del: record.del && formatClock(record.del),
        fields: [...record.fields].map(([name, { clock }]) => `${name}@${formatClock(clock)}`),
      })
    : 'absent'

/** An acknowledged write is there, or something later is in its place. */
function lossOf(acked: Acked, copy: FinalCopy, history: History): string | undefined {
  const { record: name } = acked
  const record = copy.records.get(name)
  const loss = lossIn(acked, record, history)
  const aside = loss && copy.setAside.get(name)
  // An operator finds it, or what came later, among the late writes.
  return aside && lossIn(acked, mergeRecords(record ?? EMPTY_RECORD, aside), history) === undefined ? undefined : loss
}

function lossIn(acked: Acked, record: LwwRecord | undefined, history: History): string | undefined {
  const { record: name, clock, field } = acked
  const isVisible = record?.put !== undefined && (!record.del || compareClocks(record.put, record.del) > 0)
  if (acked.action === 'del') {
    // Deleted stays deleted: only a later existence may show.
    if (isVisible && compareClocks(record!.put!, clock) <= 0 && isCovered(acked, history))
      return `${acked.tenant}: ${name} is back from before its acknowledged delete at ${formatClock(clock)}: ${show(record)}`
    if (!isCovered(acked, history)) return undefined
    const isRemembered = record?.del !== undefined && compareClocks(record.del, clock) >= 0
    const isLater = isVisible && compareClocks(record!.put!, clock) > 0
    if (isRemembered || isLater || !record) return undefined
    return `${acked.tenant}: the delete of ${name} at ${formatClock(clock)} is lost: ${show(record)}`
  }
  if (!isCovered(acked, history)) return undefined
  const isDeleted = (record?.del !== undefined && compareClocks(record.del, clock) >= 0) || laterDelete(acked, history)
  if (isDeleted) return undefined
  const latest = field === undefined ? record?.put : record?.fields.get(field)?.clock
  if (latest !== undefined && compareClocks(latest, clock) >= 0) return undefined
  return `${acked.tenant}: ${name} ${field ?? ''} written at ${formatClock(clock)} (${acked.reached}, disk ${acked.disk}) is lost: ${show(record)}`
}

/** `local` promises as much as the disk that took it. */
function isCovered(acked: Acked, history: History): boolean {
  if (history.excused.has(formatClock(acked.clock))) return false
  if (acked.reached !== 'local') return true
  const lostAtMs = history.lostDisks.get(acked.disk)
  return lostAtMs === undefined || acked.atMs < lostAtMs
}

/** A delete that a floor has collected since, also one whose answer never came. */
const laterDelete = (acked: Acked, history: History): boolean =>
  history.attempted.some(
    other =>
      other.action === 'del' &&
      other.tenant === acked.tenant &&
      other.record === acked.record &&
      compareClocks(other.clock, acked.clock) > 0,
  )

/**
 * A write that was refused as it was about to be committed took a clock that no disk knows of: when the process is gone, and its clock runs behind, another write gets the same one. Of several with one version the last
 * is the one that may have been committed, since a clock that was committed is not given again.
 */
function withoutRefused(operations: readonly RegisterOperation[]): readonly RegisterOperation[] {
  const isWrite = ({ kind }: RegisterOperation) => kind === 'written' || kind === 'unknown'
  return operations.filter(
    (operation, at) =>
      !isWrite(operation) ||
      !operations.some((other, n) => n > at && isWrite(other) && other.version === operation.version),
  )
}
