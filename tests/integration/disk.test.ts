import { afterAll, beforeAll, expect, it } from 'vitest'
import { remove, startTestNode, type TestNode } from '../support/running.ts'

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
