import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { MemoryKv } from '../../src/storage/memory.ts'
import { openRocksKv } from '../../src/storage/rocksdb.ts'
import { kvContract } from './kv.ts'

const options = { createIfMissing: true, writeBufferBytes: 1024 * 1024, blockCacheBytes: 1024 * 1024 }
const folder = () => mkdtemp(join(tmpdir(), 'percolate-kv-'))

kvContract('memory', async () => new MemoryKv())
kvContract('RocksDB', async () => openRocksKv(await folder(), options))

describe('RocksDB adapter', () => {
  it('keeps data over close and open, and refuses a second opener', async () => {
    const path = await folder()
    const kv = await openRocksKv(path, options)
    await kv.write([{ type: 'put', key: Buffer.from('k'), value: Buffer.from('v') }], { sync: true })
    await expect(openRocksKv(path, options)).rejects.toMatchObject({ code: 'DATA_DIR_IN_USE' })
    await kv.close()
    const again = await openRocksKv(path, options)
    expect((await again.get(Buffer.from('k')))?.toString()).toBe('v')
    await again.close()
  })

  it('lets running operations finish before it closes', async () => {
    const kv = await openRocksKv(await folder(), options)
    const writes = Array.from({ length: 50 }, (_, n) =>
      kv.write([{ type: 'put', key: Buffer.from(`k${n}`), value: Buffer.alloc(1000) }], { sync: true }),
    )
    await kv.close()
    await Promise.all(writes)
  })
})
