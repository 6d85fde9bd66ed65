import type { FastifyReply } from 'fastify'
import { PercolateError } from '../../base/errors.ts'
import type { Ending } from '../../session/session.ts'

/** Ends when the client goes away. The signal is made when somebody asks for it: most reads are done before it could fire, and it costs more than they do. */
export class ReplyEnding implements Ending {
  readonly #reply: Pick<FastifyReply, 'raw'>
  #controller: AbortController | undefined

  constructor(reply: Pick<FastifyReply, 'raw'>) {
    this.#reply = reply
  }

  get signal(): AbortSignal {
    if (this.#controller) return this.#controller.signal
    const { raw } = this.#reply
    const hasEnded = this.hasEnded
    const controller = new AbortController()
    this.#controller = controller
    const gone = () => controller.abort(new PercolateError('CANCELLED', 'The client went away.'))
    // It is told of once, and that may be over.
    if (hasEnded) gone()
    else {
      raw.once('close', () => {
        if (!raw.writableFinished) gone()
      })
    }
    return controller.signal
  }

  get hasEnded(): boolean {
    const { raw } = this.#reply
    return this.#controller?.signal.aborted ?? (raw.destroyed && !raw.writableFinished)
  }
}
