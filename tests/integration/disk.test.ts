import { execFile } from 'node:child_process'
import { open, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { eventually, remove, startTestNode, type TestNode, tempFolder } from '../support/running.ts'

const run = promisify(execFile)

let node: TestNode
beforeAll(async () => {
  // More than any disk has: it is as if it were full.
  node = await startTestNode({ env: { PERCOLATE_DISK_RESERVE_BYTES: String(1024 ** 5) } })
})
afterAll(async () => {
  await node.stop()
  await remove(node.folder)
})

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

/** A disk of 64 MiB, in memory; undefined where this process may not mount one. */
async function smallDisk(): Promise<string | undefined> {
  const folder = await tempFolder()
  try {
    await run('mount', ['-t', 'tmpfs', '-o', 'size=64m', 'tmpfs', folder])
    return folder
  } catch {
    await remove(folder)
    return undefined
  }
}
const disk = await smallDisk()
afterAll(async () => {
  if (!disk) return
  await run('umount', ['-l', disk])
  await remove(disk)
})

/** Takes what is free, to the last byte. */
async function fillDisk(path: string): Promise<void> {
  const file = await open(path, 'a')
  try {
    for (let bytes = 1024 * 1024; bytes >= 1; ) {
      try {
        await file.appendFile(Buffer.alloc(bytes))
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error
        bytes = bytes >> 3
      }
    }
  } finally {
    await file.close()
  }
}

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
