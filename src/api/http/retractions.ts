import type { FastifyInstance } from 'fastify'
import type { Operations } from '../operations/operations.ts'
import type * as schemas from '../schemas.ts'
import { tenantHeader } from './tenant-header.ts'

const AS_OF = { type: 'string', description: 'The clock of the writes to take back.' }

/** The route by which workers take back what a job wrote, and others what they wrote with a clock of their own. */
export function addRetractionRoute(app: FastifyInstance, { retractions }: Operations): void {
  const ref = (name: string) => ({ $ref: `${name}#` })
  app.post(
    '/retractions',
    {
      schema: {
        tags: ['resources'],
        summary:
          'Delete records as of the clock in `X-Percolate-As-Of`, with which they were made; later writes stay, and records with something earlier',
        headers: {
          ...tenantHeader,
          required: [...tenantHeader.required, 'X-Percolate-As-Of'],
          properties: { ...tenantHeader.properties, 'X-Percolate-As-Of': AS_OF },
        },
        body: ref('RetractionInput'),
        response: {
          200: ref('RetractionOutput'),
          '4XX': ref('Problem'),
          '5XX': ref('Problem'),
        },
      },
    },
    async request => retractions.retract(request.call, request.body as schemas.RetractionInput),
  )
}
