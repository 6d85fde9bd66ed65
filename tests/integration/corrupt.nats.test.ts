import { open, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { TestCluster } from '../support/cluster.ts'
import { eventually } from '../support/running.ts'

const TENANT = 'acme'
const ENTITIES = 300
let cluster: TestCluster

beforeAll(async () => {
  // Small buffers, so that the data is in files, and is read from there.
  cluster = await TestCluster.start({
    env: { PERCOLATE_WRITE_BUFFER_BYTES: '65536', PERCOLATE_BLOCK_CACHE_BYTES: '65536' },
  })
})
afterAll(() => cluster.stop())

/** Changes some bytes in every block of every table that RocksDB has written. */
async function damage(folder: string): Promise<number> {
  const tables = (await readdir(folder)).filter(name => name.endsWith('.sst'))
  for (const name of tables) {
    const file = await open(join(folder, name), 'r+')
    try {
      const { size } = await file.stat()
      for (let at = 50; at < size - 200; at += 1000) await file.write(Buffer.from('damaged'), 0, 7, at)
      await file.sync()
    } finally {
      await file.close()
    }
  }
  return tables.length
}

describe('a node whose disk rots while it runs', () => {
  it('gives the requests to the other holder, and gets its copy anew from there', async () => {
    const any = cluster.node('n1')
    for (let n = 0; n < ENTITIES; n += 50) {
      const entities = Array.from({ length: 50 }, (_, k) => ({
        id: `e${n + k}`,
        properties: { text: `${n + k} `.repeat(400) },
      }))
      expect((await any.request('POST', '/api/v1/entities', { tenant: TENANT, body: { entities } })).status).toBe(201)
    }
    const [, other] = await cluster.holders(TENANT)
    const victim = cluster.node(other!)
    const { copies } = victim.replica!
    const folder = join(victim.folder, 'tenants', TENANT)
    expect(await damage(folder)).toBeGreaterThan(0)
    const read = (n: number) => victim.request('GET', `/api/v1/entities/e${n}`, { tenant: TENANT })
    for (let n = 0; n < ENTITIES && copies.counts.corrupt === 0; n++) await read(n)
    expect(copies.counts.corrupt).toBe(1)
    // While it is being made anew the other holder answers.
    for (let n = 0; n < 30; n++) expect((await read(n)).status, `e${n}`).toBe(200)
    await eventually('the copy is current again', async () => copies.isCurrent(victim.replica!.copies.tenants()[0]!))
    for (let n = 0; n < ENTITIES; n += 7) expect((await read(n)).status, `e${n}`).toBe(200)
    expect(await readdir(join(victim.folder, 'damaged'))).toHaveLength(1)
    expect((await victim.request('GET', '/metrics', { tenant: undefined })).body).toContain(
      'percolate_copies_corrupt_total 1',
    )
  })
})
