import { spawn } from 'node:child_process'
import { access, open, readdir, readFile, stat } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { expect, it } from 'vitest'
import { openRocksKv } from '../../src/storage/rocksdb.ts'
import { remove, tempFolder } from '../support/running.ts'

const options = { createIfMissing: true, writeBufferBytes: 1 << 20, blockCacheBytes: 1 << 19 }
const FOOTER_BYTES = 53
const COMPILED = resolve('dist/src/storage/rocksdb.js')

/** An unsigned LEB128 number and what follows it. */
function varint(bytes: Buffer, at: number): [number, number] {
  let [value, scale] = [0, 1]
  for (let next = at; ; next++) {
    value += (bytes[next]! & 127) * scale
    if (bytes[next]! < 128) return [value, next + 1]
    scale *= 128
  }
}

/** The restart points at the end of a block. */
const RESTARTS_BYTES = 8

/** Zeroes the entries of a table's index of meta blocks, which RocksDB reads without a checksum when it opens a database. */
async function zeroMetaIndex(path: string): Promise<void> {
  const bytes = await readFile(path)
  const [offset, next] = varint(bytes, bytes.length - FOOTER_BYTES + 1)
  const [size] = varint(bytes, next)
  const file = await open(path, 'r+')
  await file.write(Buffer.alloc(size - RESTARTS_BYTES), 0, size - RESTARTS_BYTES, offset)
  await file.close()
}

/** Opens the database in a process of its own: how that ended, and what it said. */
function openInProcess(folder: string): Promise<{ signal: NodeJS.Signals | null; said: string }> {
  const program = `const { openRocksKv } = await import(${JSON.stringify(COMPILED)})
await openRocksKv(${JSON.stringify(folder)}, ${JSON.stringify(options)}).then(kv => { console.log('open'); return kv.close() }, error => console.log(error.code))`
  const child = spawn(process.execPath, ['--input-type=module', '-e', program], { stdio: ['ignore', 'pipe', 'ignore'] })
  let said = ''
  child.stdout.on('data', text => {
    said += text
  })
  return new Promise(done => {
    child.once('close', (_, signal) => done({ signal, said: said.trim() }))
  })
}

const isThere = (path: string) =>
  access(path).then(
    () => true,
    () => false,
  )

it('a database whose opening ends the process does so once: the next process finds it damaged', async () => {
  const folder = await tempFolder()
  const kv = await openRocksKv(folder, options)
  await kv.write([{ type: 'put', key: Buffer.from('a'), value: Buffer.from('b') }], { sync: true })
  await kv.close()
  // Opened again, so that what was in the log is in a table.
  expect(await openInProcess(folder)).toEqual({ signal: null, said: 'open' })
  expect(await isThere(join(folder, 'OPENING'))).toBe(false)
  const table = (await readdir(folder)).find(name => name.endsWith('.sst'))!
  expect((await stat(join(folder, table))).size).toBeGreaterThan(FOOTER_BYTES)
  await zeroMetaIndex(join(folder, table))

  await expect(openRocksKv(folder, { ...options, isSuspect: true })).rejects.toMatchObject({ code: 'DATA_CORRUPT' })
  const crashed = await openInProcess(folder)
  expect(crashed).toEqual({ signal: 'SIGABRT', said: '' })
  expect(await isThere(join(folder, 'OPENING'))).toBe(true)
  expect(await openInProcess(folder)).toEqual({ signal: null, said: 'DATA_CORRUPT' })
  await expect(openRocksKv(folder, options)).rejects.toMatchObject({ code: 'DATA_CORRUPT' })
  await remove(folder)
})

it('what a killed process left of an opening keeps a healthy database from nothing', async () => {
  const folder = await tempFolder()
  await (await openRocksKv(folder, options)).close()
  const file = await open(join(folder, 'OPENING'), 'w')
  await file.close()
  expect(await openInProcess(folder)).toEqual({ signal: null, said: 'open' })
  expect(await isThere(join(folder, 'OPENING'))).toBe(false)
  await remove(folder)
})
