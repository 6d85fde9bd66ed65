import { expect, it } from 'vitest'
import { ResourceOperations } from '../../../src/api/operations/resources.ts'
import { parseTenantId } from '../../../src/base/ids.ts'
import { createLogger } from '../../../src/base/logger.ts'
import { systemTime } from '../../../src/base/time.ts'
import { planResource, resourceId } from '../../../src/rem/plan.ts'
import { ANY } from '../../../src/session/request.ts'
import { Session } from '../../../src/session/session.ts'
import { TenantPool } from '../../../src/tenant/pool.ts'
import { openMemoryTenant } from '../../support/memory-tenant.ts'

const tenant = parseTenantId('t')
const clock = { wall: 1000, counter: 0, origin: 'elsewhere' }
const command = (model: string) => ({
  uri: '',
  ordinal: 0,
  content: model,
  embedding: { model, vector: new Float32Array([1]) },
})

/** A holder that got vectors of two models, in this order. */
async function holderWith(...models: string[]): Promise<ResourceOperations> {
  const pool = new TenantPool({
    time: systemTime,
    logger: createLogger({ level: 'silent', role: 'test' }),
    openMax: 1,
    memoryBytesMax: 1e9,
    tenantBytes: 1,
    idleMs: 1e6,
    waitMsMax: 1000,
    exists: async () => true,
    open: id => openMemoryTenant(id),
  })
  for (const model of models)
    await pool.use(tenant, async opened => ({
      value: await opened.write(() => ({ ops: [planResource(command(model), clock)], result: undefined }), {
        asOf: clock,
      }),
    }))
  return new ResourceOperations({ pool, time: systemTime } as never)
}

const session = () =>
  new Session({ tenant, access: 'read', consistency: ANY, asOf: undefined, forwardedBy: undefined }, {
    signal: new AbortController().signal,
    hasEnded: false,
    throwIfEnded: () => {},
  } as never)

it('of a resource tells answers apart in which holders that began with vectors of different models differ', async () => {
  const holders = [await holderWith('a', 'b'), await holderWith('b', 'a')]
  for (const model of ['a', 'b']) {
    const [one, two] = await Promise.all(holders.map(holder => holder.get(session(), resourceId(command(model)))))
    expect(one!.resource.embedding).not.toBe(two!.resource.embedding)
    expect(one!.etag).not.toBe(two!.etag)
    expect(one!.etag.slice(0, 21)).toBe(two!.etag.slice(0, 21))
  }
})
