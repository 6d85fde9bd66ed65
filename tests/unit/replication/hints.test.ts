import { expect, it } from 'vitest'
import { parseTenantId } from '../../../src/base/ids.ts'
import { createLogger } from '../../../src/base/logger.ts'
import { Applier } from '../../../src/replication/applier.ts'
import { Follower, WATCHED_MAX } from '../../../src/replication/follower.ts'
import { encodeHint } from '../../../src/replication/publisher.ts'
import { MemoryStream } from '../../../src/stream/memory/adapter.ts'
import { MemoryLog } from '../../../src/stream/memory/log.ts'
import { subjects } from '../../../src/stream/subjects.ts'
import { TenantPool } from '../../../src/tenant/pool.ts'
import { World } from '../../sim/world.ts'

const logger = createLogger({ level: 'silent', role: 'test' })

it('watches no more announcements than its bound, one for each origin, and forgets them when they are looked at', async () => {
  const world = new World(1)
  const time = world.timeOf({ skewMs: 0, isDead: false })
  const stream = new MemoryStream(new MemoryLog(time))
  const follower = new Follower({
    stream,
    time,
    logger,
    pool: new TenantPool({
      time,
      logger,
      openMax: 10,
      memoryBytesMax: 1e9,
      tenantBytes: 1,
      idleMs: 1000,
      waitMsMax: 1000,
      exists: async () => false,
      open: () => Promise.reject(new Error('There is nothing to open.')),
    }),
    applier: new Applier({ time, logger, clockSkewMsMax: 1000, onParked: () => {} }),
    streams: () => undefined,
    takesEntries: () => true,
    holds: () => false,
    onHole: () => {},
    idleMs: 1000,
    hintGraceMs: 100,
    cursors: { load: async () => undefined, save: async () => {} },
  })
  follower.start()
  const announce = (origin: string, sequence: number) =>
    stream.announce(subjects.hint, encodeHint({ tenant: parseTenantId('acme'), incarnation: 'i', origin, sequence }))
  for (let n = 0; n < 100; n++) announce('one.disk', n)
  await world.run(1)
  expect(follower.watched).toBe(1)
  for (let n = 0; n < WATCHED_MAX + 100; n++) announce(`node-${n}.disk`, 1)
  await world.run(1)
  expect(follower.watched).toBe(WATCHED_MAX)
  await world.run(1000)
  expect(follower.watched).toBe(0)
  await follower.stop()
})
