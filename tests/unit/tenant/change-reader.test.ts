import { expect, it } from 'vitest'
import { parseTenantId } from '../../../src/base/ids.ts'
import { systemTime } from '../../../src/base/time.ts'
import { planEntity } from '../../../src/rem/plan.ts'
import { MemoryKv } from '../../../src/storage/memory.ts'
import { ChangeReader } from '../../../src/tenant/change-reader.ts'
import { Tenant } from '../../../src/tenant/tenant.ts'

it('one reading of the log is bounded by the changes in it, and by its bytes: large writes come one by one', async () => {
  const tenant = await Tenant.open(parseTenantId('acme'), new MemoryKv(), {
    time: systemTime,
    origin: 'n.d',
    incarnation: '000000000001-0000000000000000',
    outboxEnabled: true,
    outboxBytesMax: 1e9,
    recordCacheBytes: 1e6,
    changesMax: 1000,
    onCommit: () => {},
  })
  /** What each reading brings, from the last position on. */
  const readings = async (write: () => Promise<unknown>): Promise<number[]> => {
    const reader = await ChangeReader.start(tenant, 'now')
    await write()
    const sizes = []
    while (reader.isBehind(tenant))
      sizes.push((await reader.read(tenant)).reduce((sum, { changes = [] }) => sum + changes.length, 0))
    return sizes
  }
  const put = (count: number, name: (n: number) => string) =>
    tenant.write(({ clock }) => ({
      ops: Array.from({ length: count }, (_, n) => planEntity({ id: name(n) }, clock)).flat(),
      result: undefined,
    }))
  const many = async (writes: number, count: number, idLength: number) => {
    for (let w = 0; w < writes; w++) await put(count, n => `${w}-${n}-`.padEnd(idLength, 'x'))
  }
  expect(await readings(() => many(5, 1200, 8))).toEqual([1200, 1200, 1200, 1200, 1200])
  expect(await readings(() => many(5, 400, 8))).toEqual([1200, 800])
  // More than half of the bytes of a reading each.
  expect(await readings(() => many(5, 200, 700))).toEqual([200, 200, 200, 200, 200])
  expect(await readings(() => many(150, 1, 8))).toEqual([128, 22])
})
