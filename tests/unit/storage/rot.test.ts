import { createHash } from 'node:crypto'
import { open, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { openRocksKv } from '../../../src/storage/rocksdb.ts'
import { remove, tempFolder } from '../../support/running.ts'

const COUNT = 3000
const options = { createIfMissing: true, writeBufferBytes: 1 << 20, blockCacheBytes: 1 << 19 }
const keyOf = (n: number) => Buffer.from(`k${String(n).padStart(6, '0')}`)
/** Incompressible, as vectors are: no format is there to notice. */
const contentOf = (key: Buffer) =>
  Buffer.concat(Array.from({ length: 8 }, (_, n) => createHash('sha256').update(key).update(String(n)).digest()))

it('a range gives nothing that rotted on disk', async () => {
  const folder = await tempFolder()
  const first = await openRocksKv(folder, options)
  const keys = Array.from({ length: COUNT }, (_, n) => keyOf(n))
  await first.write(
    keys.map(key => ({ type: 'put' as const, key, value: contentOf(key) })),
    { sync: true },
  )
  await first.close()
  // Opened again, so that what was in the log is in a table.
  await (await openRocksKv(folder, options)).close()
  const table = (await readdir(folder)).find(name => name.endsWith('.sst'))!
  const file = await open(join(folder, table), 'r+')
  // One bit, in the middle of a value somewhere in the middle: which one is told by what reading without checks gives.
  const byte = Buffer.alloc(1)
  const at = 300_100
  await file.read(byte, 0, 1, at)
  byte[0]! ^= 1
  await file.write(byte, 0, 1, at)
  await file.close()
  const kv = await openRocksKv(folder, options)
  const wrongOf = async (verified: boolean) => {
    let [wrong, read] = [0, 0]
    try {
      for await (const chunk of kv.chunks({ gte: Buffer.from('k'), lt: Buffer.from('l'), verified }))
        for (const [key, value] of chunk) {
          read++
          if (!value.equals(contentOf(key))) wrong++
        }
      return { wrong, read, refused: false }
    } catch {
      return { wrong, read, refused: true }
    }
  }
  // The set-up makes the shipped binary check its ranges where it knows how to; elsewhere only what is read verified is checked.
  const isChecked = process.platform === 'linux'
  expect(await wrongOf(false)).toMatchObject(isChecked ? { wrong: 0, refused: true } : { wrong: 1, refused: false })
  expect(await wrongOf(true)).toMatchObject({ wrong: 0, refused: true })
  await kv.close()
  await remove(folder)
})
