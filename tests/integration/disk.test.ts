import { rmSync, statfsSync } from 'node:fs'
import { rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import type { PercolateError } from '../../src/base/errors.ts'
import type { Kv } from '../../src/storage/kv.ts'
import { RenewedKv } from '../../src/storage/renewed.ts'
import { openRocksKv } from '../../src/storage/rocksdb.ts'
import { eventually, startFileNode, startTestNode, type TestNode } from '../support/running.ts'
import { fillDisk, smallDisk } from '../support/small-disk.ts'

// More than any disk has: it is as if it were full.
const node = await startFileNode({ env: { PERCOLATE_DISK_RESERVE_BYTES: String(1024 ** 5) } })

it('refuses writes when the disk is full up to its reserve, says so, and goes on reading', async () => {
  const { status, body, headers } = await node.request('POST', '/api/v1/resources', { body: { content: 'no room' } })
  expect([status, body.code, headers.get('retry-after')]).toEqual([507, 'DISK_FULL', '30'])
  expect((await node.request('GET', '/api/v1/resources')).body.results).toEqual([])
  const ready = await node.request('GET', '/ready', { tenant: undefined })
  expect([ready.status, ready.body.probes.find(({ name }: { name: string }) => name === 'disk').ok]).toEqual([
    503,
    false,
  ])
})

const disk = await smallDisk(64)

it.skipIf(!disk)('starts and reads on a disk with no byte free, as long as it has something to give up', async () => {
  const folder = join(disk!, 'data')
  const start = () => startTestNode({ folder, env: { PERCOLATE_DISK_RESERVE_BYTES: String(16 * 1024 * 1024) } })
  const put = (on: TestNode) => on.request('POST', '/api/v1/resources', { body: { content: 'kept' } })
  const ballast = async () => (await stat(join(folder, 'ballast')).catch(() => undefined))?.size
  const filler = join(disk!, 'filler')

  const first = await start()
  expect((await put(first)).status).toBe(201)
  await eventually('the ballast is there', async () => (await ballast()) === 8 * 1024 * 1024)
  await first.stop()
  await fillDisk(filler)

  const second = await start()
  const read = await second.request('GET', '/api/v1/resources')
  expect([read.status, read.body.results.map(({ content }: { content: string }) => content)]).toEqual([200, ['kept']])
  const refused = await put(second)
  expect([refused.status, refused.body.code]).toEqual([507, 'DISK_FULL'])
  expect(await ballast()).toBeUndefined()
  await second.stop()

  // Nothing is left to give up: it says so, and what to do.
  await fillDisk(filler)
  await expect(start()).rejects.toMatchObject({
    code: 'DISK_FULL',
    message: expect.stringMatching(/data is full.*Free at least \d+ bytes.*larger volume.*start again/),
  })

  await rm(filler)
  const third = await start()
  expect((await put(third)).status).toBe(201)
  expect((await third.request('GET', '/api/v1/resources')).body.results).toHaveLength(1)
  await eventually('the ballast is there again', async () => (await ballast()) === 8 * 1024 * 1024)
  await third.stop()
})

it.skipIf(!disk)('keeps what was acknowledged after a write that found the disk full', async () => {
  const filler = join(disk!, 'filler')
  const put = (kv: Kv, name: string) =>
    kv
      .write([{ type: 'put', key: Buffer.from(name), value: Buffer.alloc(20_000) }], { sync: true })
      .then(() => 'kept' as const)
      .catch(({ code }: PercolateError) => code)
  const open = () =>
    openRocksKv(join(disk!, 'kv'), {
      createIfMissing: true,
      writeBufferBytes: 1024 * 1024,
      blockCacheBytes: 1024 * 1024,
    })
  const acknowledged: string[] = []
  const write = async (kv: Kv, name: string) => {
    const answer = await put(kv, name)
    if (answer === 'kept') acknowledged.push(name)
    return answer
  }

  const first = await open()
  expect(await write(first, 'before')).toBe('kept')
  await fillDisk(filler)
  expect(await write(first, 'full')).toBe('DISK_FULL')
  await rm(filler)
  // There is room, but also a piece of the failed write in the log, and what is behind it is not read again.
  expect(await write(first, 'after')).toBe('DISK_FULL')
  expect((await first.get(Buffer.from('before')))?.length).toBe(20_000)
  await first.close()
  // One that is open as long as the process opens itself anew.
  const second = await RenewedKv.open(open)
  await fillDisk(filler)
  expect(await write(second, 'full again')).toBe('DISK_FULL')
  await rm(filler)
  expect(await write(second, 'after a renewal')).toBe('kept')
  await second.close()

  const third = await open()
  expect(acknowledged).toEqual(['before', 'after a renewal'])
  for (const name of acknowledged) expect((await third.get(Buffer.from(name)))?.length).toBe(20_000)
  expect(await third.get(Buffer.from('full'))).toBeUndefined()
  await third.close()
})

it.skipIf(!disk)(
  'says what became of a write: not known of one that failed or ran beside it, nothing of a later one',
  async () => {
    const filler = join(disk!, 'filler')
    const kv = await openRocksKv(join(disk!, 'beside'), {
      createIfMissing: true,
      writeBufferBytes: 4 * 1024 * 1024,
      blockCacheBytes: 1024 * 1024,
    })
    const put = (name: string, bytes: number) =>
      kv.write([{ type: 'put', key: Buffer.from(name), value: Buffer.alloc(bytes) }], { sync: true }).then(
        () => undefined,
        (error: PercolateError) => error,
      )
    await put('before', 10)
    await fillDisk(filler, 256 * 1024)
    // In one go, so that nobody hears of the failure before the second is on its way too, with room again.
    const failed = put('failed', 1024 * 1024)
    while (statfsSync(disk!).bavail > 0) sleepInOneGo(1)
    sleepInOneGo(200)
    rmSync(filler)
    const beside = put('beside', 10)
    const unknown = { code: 'DISK_FULL', message: expect.stringMatching(/not known: read it back;.*send it again/) }
    expect(await failed).toMatchObject(unknown)
    expect(await beside).toMatchObject(unknown)
    // It was written: who was told that the database takes no other write would not look for it.
    expect((await kv.get(Buffer.from('beside')))?.length).toBe(10)
    expect(await put('later', 10)).toMatchObject({
      code: 'DISK_FULL',
      message: expect.stringMatching(/nothing of this one was made.*opened anew/),
    })
    expect(await kv.get(Buffer.from('later'))).toBeUndefined()
    await kv.close()
  },
)

const sleepInOneGo = (ms: number) => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms)
