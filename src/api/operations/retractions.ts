import { PercolateError } from '../../base/errors.ts'
import { checkId } from '../../base/ids.ts'
import { Slicer } from '../../base/slice.ts'
import { type Clock, compareClocks } from '../../clock/hlc.ts'
import { isVisible } from '../../rem/merge.ts'
import { planDelete } from '../../rem/plan.ts'
import { EMBEDDING_FIELD_PREFIX, type LwwRecord, type Op } from '../../rem/record.ts'
import type { Session } from '../../session/session.ts'
import { write } from '../../session/write.ts'
import type { RetractionInput, RetractionOutput } from '../schemas.ts'
import type { OperationsContext } from './context.ts'

const KINDS = { resources: 'resource', entities: 'entity', moments: 'moment' } as const

/** Takes writes back that carry one clock, such as those of a job. */
export class RetractionOperations {
  readonly #context: OperationsContext

  constructor(context: OperationsContext) {
    this.#context = context
  }

  /**
   * Deletes records *as of the clock that was written with*, all or none: what anybody wrote later stays, whichever holder has seen it by now. A record that is not there is deleted as well, so that
   * a write of that clock which is still on its way comes to nothing when it arrives. `kept`: records that stood before that clock, as far as is known here. A delete would take that along, so they
   * are left as they are, with what was written to them.
   */
  async retract(call: Session, input: RetractionInput): Promise<RetractionOutput> {
    if (!call.asOf)
      throw new PercolateError(
        'INVALID_ARGUMENT',
        'X-Percolate-As-Of is missing: name the clock of the writes to take back.',
        { field: 'X-Percolate-As-Of' },
      )
    const named = Object.entries(KINDS).flatMap(([list, kind]) =>
      (input[list as keyof typeof KINDS] ?? []).map((id, n) => ({ kind, id: checkId(id, `${list}[${n}]`) })),
    )
    const records = [...new Map(named.map(record => [`${record.kind} ${record.id}`, record])).values()]
    if (records.length === 0) return { retracted: 0 }
    return write(
      this.#context,
      call,
      async ({ clock, read }) => {
        const slicer = new Slicer(() => call.throwIfEnded())
        const ops: Op[] = []
        const kept: RetractionOutput['kept'] = []
        for (const { kind, id } of records) {
          await slicer.pause()
          const record = await read({ kind, key: [id] })
          if (record && stoodBefore(record, clock)) kept.push({ kind, id })
          else ops.push(planDelete(kind, id, clock))
        }
        return { ops, result: { retracted: ops.length, ...(kept.length > 0 ? { kept } : {}) } }
      },
      { weight: records.length, touches: records.map(({ kind, id }) => ({ kind, key: [id] })) },
    )
  }
}

/** Whether it is there, and something of it is from before `clock`. What a later write of the same field overtook is not known any more. */
function stoodBefore(record: LwwRecord, clock: Clock): boolean {
  if (!isVisible(record)) return false
  // A vector says nothing of that: it may be left from a record that was deleted.
  const registers = [...record.fields].filter(([name]) => !name.startsWith(EMBEDDING_FIELD_PREFIX))
  const clocks = [record.put!, ...registers.map(([, { clock }]) => clock)]
  return clocks.some(other => compareClocks(other, clock) < 0)
}
