import { type Clock, compareClocks, laterClock } from '../clock/hlc.ts'
import { compareValues } from './canonical.ts'
import { EMPTY_RECORD, type LwwRecord, type Op, type Register } from './record.ts'

export const isVisible = (record: LwwRecord): boolean =>
  record.put !== undefined && (record.del === undefined || compareClocks(record.put, record.del) > 0)

/** An op as a state of its own: merging states is then the only rule there is. */
export function opToRecord(op: Op): LwwRecord {
  if (op.action === 'del') return { put: undefined, del: op.clock, fields: new Map() }
  const fields = new Map(Object.entries(op.fields).map(([name, value]) => [name, { clock: op.clock, value }]))
  return { put: op.action === 'put' ? op.clock : undefined, del: undefined, fields }
}

/**
 * Merges two states of one record. Commutative, associative and idempotent, so replicas that saw the same ops in any order
 * and any number of times are equal (a join semilattice; Shapiro et al., "Conflict-free Replicated Data Types", 2011).
 */
export function mergeRecords(a: LwwRecord, b: LwwRecord): LwwRecord {
  const del = laterClock(a.del, b.del)
  const fields = new Map<string, Register>()
  for (const [name, register] of a.fields) if (survives(register, del)) fields.set(name, register)
  for (const [name, register] of b.fields) {
    if (!survives(register, del)) continue
    const other = fields.get(name)
    fields.set(name, other === undefined ? register : laterRegister(other, register))
  }
  const put = laterClock(a.put, b.put)
  // An existence that a delete has ended says nothing any more: without it, equal records have equal bytes whatever was collected when.
  return { put: put && survives({ clock: put }, del) ? put : undefined, del, fields }
}

export const mergeOp = (record: LwwRecord, op: Op): LwwRecord => mergeRecords(record, opToRecord(op))

/** Gathers the ops of one record into one state, as {@link mergeOp} does one by one: each costs its own fields only, however many there were before it. */
export class RecordFold {
  readonly #fields = new Map<string, Register>()
  #put: Clock | undefined
  #del: Clock | undefined

  add(op: Op): void {
    if (op.action === 'del') {
      this.#del = laterClock(this.#del, op.clock)
      return
    }
    if (op.action === 'put') this.#put = laterClock(this.#put, op.clock)
    for (const [name, value] of Object.entries(op.fields)) {
      const register = { clock: op.clock, value }
      const other = this.#fields.get(name)
      this.#fields.set(name, other === undefined ? register : laterRegister(other, register))
    }
  }

  /** What the ops come to. Deletes count here: a register that one of them ends is at or below the latest of them, too. */
  get record(): LwwRecord {
    return mergeRecords({ put: this.#put, del: this.#del, fields: this.#fields }, EMPTY_RECORD)
  }
}

const survives = (register: Pick<Register, 'clock'>, del: Clock | undefined) =>
  del === undefined || compareClocks(register.clock, del) > 0

/** Ties of the whole clock (one write that carries an upload's clock, retried with other content) break by value. */
function laterRegister(a: Register, b: Register): Register {
  const order = compareClocks(a.clock, b.clock)
  if (order !== 0) return order > 0 ? a : b
  return compareValues(a.value, b.value) >= 0 ? a : b
}
