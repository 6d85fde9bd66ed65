import { PercolateError } from '../../base/errors.ts'
import { checkId } from '../../base/ids.ts'
import { planDelete } from '../../rem/plan.ts'
import type { Session } from '../../session/session.ts'
import { write } from '../../session/write.ts'
import type { RetractionInput } from '../schemas.ts'
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
   * a write of that clock which is still on its way comes to nothing when it arrives.
   */
  async retract(call: Session, input: RetractionInput): Promise<{ retracted: number }> {
    if (!call.asOf)
      throw new PercolateError(
        'INVALID_ARGUMENT',
        'X-Percolate-As-Of is missing: name the clock of the writes to take back.',
        { field: 'X-Percolate-As-Of' },
      )
    const records = Object.entries(KINDS).flatMap(([list, kind]) =>
      (input[list as keyof typeof KINDS] ?? []).map((id, n) => ({ kind, id: checkId(id, `${list}[${n}]`) })),
    )
    if (records.length === 0) return { retracted: 0 }
    return write(
      this.#context,
      call,
      ({ clock }) => ({
        ops: records.map(({ kind, id }) => planDelete(kind, id, clock)),
        result: { retracted: records.length },
      }),
      { weight: records.length, touches: records.map(({ kind, id }) => ({ kind, key: [id] })) },
    )
  }
}
