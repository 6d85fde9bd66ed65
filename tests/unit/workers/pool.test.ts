import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { PercolateError } from '../../../src/base/errors.ts'
import { systemTime } from '../../../src/base/time.ts'
import { ParserPool } from '../../../workers/parse/pool.ts'
import { processorMs, type Sandbox } from '../../../workers/parse/sandbox.ts'
import { makeSpinningPdf } from '../../support/documents.ts'
import { eventually } from '../../support/running.ts'

const MIB = 1024 * 1024
const limits = { memoryBytes: 256 * MIB, parseBytesMax: 20 * MIB, chunkChars: 1200 }
const request = (name: string, more = {}) => ({
  name,
  contentType: null,
  timeoutMs: 30_000,
  timeoutSettings: 'PERCOLATE_PARSE_TIMEOUT_BASE_MS',
  signal: new AbortController().signal,
  ...more,
})
const isAlive = (pid: number): boolean => {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

describe('parsers that are kept ready', () => {
  const pool = new ParserPool({ ...limits, time: systemTime, warm: 1 })
  beforeAll(() => pool.start())
  afterAll(() => pool.stop())

  it('one process parses one document, of one tenant; it is gone before the next is taken', async () => {
    const first = pool.take()
    await writeFile(first.path, 'The secret of the first tenant.')
    expect((await first.parse(request('a.txt'))).chunks[0]!.content).toContain('secret')
    await first.exited
    expect(isAlive(first.pid!)).toBe(false)
    expect(existsSync(dirname(first.path))).toBe(false)
    const second = pool.take()
    expect([second.pid === first.pid, second.path === first.path]).toEqual([false, false])
    await expect(second.parse(request('b.txt', { signal: AbortSignal.abort() }))).rejects.toMatchObject({
      code: 'CANCELLED',
    })
  })

  it('reads nothing but its own document', async () => {
    const mine = pool.take()
    const other = pool.take()
    await writeFile(other.path, 'not for you')
    // The path is what the process is told to read: another document's is refused by Node's permission model.
    Object.assign(mine, { path: other.path })
    await expect(mine.parse(request('a.txt'))).rejects.toMatchObject({ message: expect.stringMatching(/restricted/) })
    await other.close()
  })

  it('a document that spins is killed when its time is over, or at once when it is cancelled', async () => {
    const spinning = async () => {
      const sandbox: Sandbox = pool.take()
      await writeFile(sandbox.path, makeSpinningPdf())
      await sandbox.ready
      return sandbox
    }
    const slow = await spinning()
    await expect(slow.parse(request('spin.pdf', { timeoutMs: 700 }))).rejects.toMatchObject({
      code: 'DOCUMENT_TOO_COSTLY',
      message: expect.stringContaining('(PERCOLATE_PARSE_TIMEOUT_BASE_MS)'),
    })
    const cancelled = await spinning()
    const stop = new AbortController()
    const parsing = cancelled.parse(request('spin.pdf', { signal: stop.signal }))
    await systemTime.sleep(100)
    stop.abort(new PercolateError('CANCELLED', 'The job was cancelled.'))
    await expect(parsing).rejects.toMatchObject({ message: 'The job was cancelled.' })
    for (const { pid, exited } of [slow, cancelled]) {
      await exited
      expect(isAlive(pid!)).toBe(false)
    }
  })

  it.runIf(existsSync('/usr/bin/setpriv'))(
    'a document that spins goes with the worker, however that ends',
    async () => {
      const module = new URL('../../../dist/workers/parse/sandbox.js', import.meta.url)
      const program = `
      const { writeFile } = await import('node:fs/promises')
      const { Sandbox } = await import(${JSON.stringify(module.href)})
      const sandbox = new Sandbox(${JSON.stringify(limits)})
      await writeFile(sandbox.path, Buffer.from(${JSON.stringify(makeSpinningPdf().toString('base64'))}, 'base64'))
      await sandbox.ready
      console.log(sandbox.pid)
      await sandbox.parse({ ...${JSON.stringify(request('spin.pdf'))}, signal: new AbortController().signal })`
      const worker = spawn(process.execPath, ['--input-type=module', '-e', program], {
        stdio: ['ignore', 'pipe', 'inherit'],
      })
      const pid = Number(await new Promise(resolve => worker.stdout!.once('data', resolve)))
      const before = await processorMs(pid)
      await eventually('it spins', async () => (await processorMs(pid))! - before! > 300)
      worker.kill('SIGKILL')
      await eventually('it is gone', async () => !isAlive(pid))
    },
  )

  it('a document whose parser does not get the processor is not called too costly for that', async () => {
    const paused = async (ms: number, timeoutMs: number) => {
      const sandbox: Sandbox = pool.take()
      await writeFile(sandbox.path, 'A short text.')
      await sandbox.ready
      process.kill(sandbox.pid!, 'SIGSTOP')
      const resume = systemTime.sleep(ms).then(() => isAlive(sandbox.pid!) && process.kill(sandbox.pid!, 'SIGCONT'))
      return { parsing: sandbox.parse(request('a.txt', { timeoutMs })), resume }
    }
    const slow = await paused(1500, 1000)
    expect((await slow.parsing).chunks[0]!.content).toBe('A short text.')
    // It is tried again, as often as others.
    const hanging = await paused(5000, 300)
    await expect(hanging.parsing).rejects.toMatchObject({
      code: 'INTERNAL',
      message: expect.stringMatching(/within 3 s/),
    })
    await Promise.all([slow.resume, hanging.resume])
  })

  it.runIf(process.platform === 'linux')('what other threads do beside the parsing is not counted', async () => {
    const spin = 'for (const end = Date.now() + 1000; Date.now() < end; );'
    const program = `new (require('node:worker_threads').Worker)(${JSON.stringify(spin)}, { eval: true }).on('exit', () => console.log()); setInterval(() => {}, 1000)`
    const child = spawn(process.execPath, ['-e', program], { stdio: ['ignore', 'pipe', 'inherit'] })
    try {
      const before = await processorMs(child.pid)
      await new Promise(resolve => child.stdout!.once('data', resolve))
      expect((await processorMs(child.pid))! - before!).toBeLessThan(300)
    } finally {
      child.kill('SIGKILL')
    }
  })

  it('a document that takes too much memory is stopped', async () => {
    const small = new ParserPool({ ...limits, memoryBytes: 64 * MIB, time: systemTime, warm: 0 })
    const sandbox = small.take()
    const wide = Array.from({ length: 300_000 }, (_, n) => ({ [`key${n % 50}`]: n, x: 'y'.repeat(20) }))
    await writeFile(sandbox.path, JSON.stringify(wide))
    await expect(sandbox.parse(request('wide.json'))).rejects.toMatchObject({ code: 'DOCUMENT_TOO_COSTLY' })
    await small.stop()
  })

  it('one that dies unused is replaced, and none is left when the pool stops', async () => {
    await eventually('one is ready', async () => pool.idle === 1)
    const dying = pool.take()
    process.kill(dying.pid!, 'SIGKILL')
    await dying.exited
    await writeFile(dying.path, 'text')
    await expect(dying.parse(request('a.txt'))).rejects.toMatchObject({ code: 'INTERNAL' })
    await eventually('its successor is there', async () => pool.idle === 1)
    await pool.stop()
    expect(pool.idle).toBe(0)
  })
})
