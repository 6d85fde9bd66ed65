import type { FastifyInstance } from 'fastify'
import type { Session } from '../../session/session.ts'
import type { HeldAnswers } from '../held-answers.ts'
import type { SlowReaders } from '../slow-readers.ts'

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Answered also when there is no room for other answers. */
    isForOperators?: true
  }
}

/** What is asked for without a tenant, such as the OpenAPI document, has a share as of one. No tenant is called so. */
const NO_TENANT = ''

/** Counts each whole answer of a server until the system has all of it, or refuses that to a read; what was written stands, and is told, and so is what operators ask for. Answers in pieces wait for their readers. */
export function holdAnswers(app: FastifyInstance, answers: HeldAnswers, readers: SlowReaders): void {
  app.addHook('onSend', async (request, reply, payload) => {
    if (!(typeof payload === 'string' || Buffer.isBuffer(payload)) || reply.raw.destroyed) return
    const { socket } = request.raw
    const { tenant, access }: Pick<Session, 'access'> & { tenant: string } = (request.call as Session | undefined) ?? {
      tenant: NO_TENANT,
      access: 'read',
    }
    const answer = answers.answer(tenant, () => {
      readers.countStalled()
      socket.destroy()
    })
    const bytes = Buffer.byteLength(payload)
    const mayWait = access === 'read' && reply.statusCode < 400 && !request.routeOptions.config.isForOperators
    if (mayWait) answer.atLeast(bytes)
    else answer.count(bytes)
    reply.raw.once('close', answer.release)
  })
}
