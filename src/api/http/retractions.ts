import type { FastifyInstance } from 'fastify'
import type { Operations } from '../operations/operations.ts'
import type * as schemas from '../schemas.ts'
import { tenantHeader } from './tenant-header.ts'

/** The route by which workers take back what a job wrote. */
export function addRetractionRoute(app: FastifyInstance, { retractions }: Operations): void {
  const ref = (name: string) => ({ $ref: `${name}#` })
  app.post(
    '/retractions',
    {
      schema: {
        tags: ['resources'],
        summary: 'Take back what was written with the clock in `X-Percolate-As-Of`; later writes stay',
        headers: tenantHeader,
        body: ref('RetractionInput'),
        response: { 200: { type: 'object', additionalProperties: true }, '4XX': ref('Problem'), '5XX': ref('Problem') },
        hide: true,
      },
    },
    async request => retractions.retract(request.call, request.body as schemas.RetractionInput),
  )
}
