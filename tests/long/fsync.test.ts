import { spawn, spawnSync } from 'node:child_process'
import { readFile, truncate } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { expect, it } from 'vitest'
import { PACKAGE_FOLDER } from '../../src/base/version.ts'
import { runCli } from '../../test-topology/launch.ts'
import { eventually, remove, request, startTestNode, tempFolder } from '../support/running.ts'

const WRITES = 40

interface Trace {
  /** Answers "201 Created" that were sent. */
  readonly answers: number
  /** Those that were sent while the log held bytes that were not synced. */
  readonly early: number
  /** Bytes of each write-ahead log that a finished fdatasync covers. */
  readonly synced: Map<string, number>
}

/** Follows the system calls in order: what was written to the tenant's log, what was synced, when an answer went out. */
function readTrace(text: string): Trace {
  const written = new Map<string, number>()
  const synced = new Map<string, number>()
  const writing = new Map<string, string>()
  const started = new Map<string, { path: string; length: number }>()
  let answers = 0
  let early = 0
  const isLog = (path: string) => /\/tenants\/[^/]+\/\d+\.log$/.test(path)
  for (const line of text.split('\n')) {
    const [, pid = '', call = ''] = /^(\d+)\s+(.*)$/.exec(line) ?? []
    const write = /^(?:write|pwrite64|writev)\(\d+<([^>]*)>.*\)\s*=\s*(\d+)$/.exec(call)
    if (write && isLog(write[1]!)) written.set(write[1]!, (written.get(write[1]!) ?? 0) + Number(write[2]))
    // A call during which another thread makes one is in two lines.
    const begun = /^(?:write|pwrite64|writev)\(\d+<([^>]*)>.*<unfinished \.\.\.>$/.exec(call)
    if (begun && isLog(begun[1]!)) writing.set(pid, begun[1]!)
    const done = /^<\.\.\. (?:write|pwrite64|writev) resumed>.*\)\s*=\s*(\d+)$/.exec(call)
    if (done) {
      const path = writing.get(pid)
      if (path) written.set(path, (written.get(path) ?? 0) + Number(done[1]))
      writing.delete(pid)
    }
    const sync = /^(?:fdatasync|fsync)\(\d+<([^>]*)>/.exec(call)
    if (sync && isLog(sync[1]!)) {
      const covered = { path: sync[1]!, length: written.get(sync[1]!) ?? 0 }
      if (/\)\s*=\s*0$/.test(call)) synced.set(covered.path, covered.length)
      else started.set(pid, covered)
    }
    if (/^<\.\.\. (?:fdatasync|fsync) resumed>.*=\s*0$/.test(call)) {
      const covered = started.get(pid)
      if (covered) synced.set(covered.path, covered.length)
      started.delete(pid)
    }
    if (/^(?:write|writev|sendto)\(.*HTTP\/1\.1 201/.test(call)) {
      answers++
      if ([...written].some(([path, length]) => (synced.get(path) ?? 0) < length)) early++
    }
  }
  return { answers, early, synced }
}

const hasStrace = spawnSync('strace', ['-V']).status === 0
if (!hasStrace)
  console.warn('\n!!! NOT CHECKED: that what is acknowledged is fsynced. There is no strace on this machine.\n')

it.runIf(hasStrace)(
  'data is synced before the answer, and a log cut at its last synced byte has every acknowledged write',
  async () => {
    const folder = await tempFolder()
    const dataDir = join(folder, 'data')
    const tracePath = join(folder, 'trace')
    const child = spawn(
      'strace',
      [
        '-f',
        '-y',
        '-s',
        '64',
        '-e',
        'trace=write,pwrite64,writev,sendto,fsync,fdatasync',
        '-o',
        tracePath,
        process.execPath,
        join(PACKAGE_FOLDER, 'bin', 'percolate.mjs'),
        'node',
        '--data-dir',
        dataDir,
        '--http-port',
        '0',
        '--grpc-port',
        '0',
      ],
      { stdio: ['ignore', 'ignore', 'pipe'], detached: true },
    )
    let log = ''
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      log += text
    })
    const port = await eventually('the node is ready', async () => Number(/"http":(\d+)/.exec(log)?.[1] ?? 0), 60_000)
    const acknowledged: string[] = []
    for (let n = 0; n < WRITES; n++) {
      const answer = await request(`http://127.0.0.1:${port}/api/v1/resources`, 'POST', {
        tenant: 'synced',
        body: { content: `durable text number ${n}` },
      })
      expect(answer.status).toBe(201)
      acknowledged.push(answer.body.ids[0])
    }
    process.kill(-child.pid!, 'SIGKILL')
    await new Promise(resolve => child.once('exit', resolve))
    const { answers, early, synced } = readTrace(await readFile(tracePath, 'utf8'))
    console.log(
      `${answers} answers, ${early} sent before their data was synced; cutting ${[...synced].map(([path, length]) => `${basename(path)} at ${length}`).join(', ')}`,
    )
    expect([answers, early]).toEqual([WRITES, 0])
    expect(synced.size).toBeGreaterThan(0)
    for (const [path, length] of synced) await truncate(path, length).catch(() => {})
    const checked = await runCli(['check', '--data-dir', dataDir, '--json'])
    expect([checked.code, JSON.parse(checked.stdout).tenants[0].problems]).toEqual([0, []])
    const node = await startTestNode({ folder: dataDir })
    for (const id of acknowledged)
      expect((await node.request('GET', `/api/v1/resources/${id}`, { tenant: 'synced' })).status).toBe(200)
    await node.stop()
    await remove(folder)
  },
)

it('the reader of traces sees an answer that comes too early', () => {
  const log = '/d/tenants/t/000004.log'
  const write = `1 write(9<${log}>, "x"..., 100) = 100`
  const answer = '1 writev(20<TCP:[1]>, [{iov_base="HTTP/1.1 201 Created"}], 1) = 300'
  expect(readTrace([write, answer].join('\n')).early).toBe(1)
  const halves = [
    `1 write(9<${log}>, "x"..., 100 <unfinished ...>`,
    '3 write(4<pipe:[1]>, "x", 1) = 1',
    '1 <... write resumed>) = 100',
  ]
  expect(readTrace([...halves, answer].join('\n')).early).toBe(1)
  const whole = readTrace([...halves, `2 fdatasync(9<${log}>) = 0`, answer].join('\n'))
  expect([whole.early, whole.synced.get(log)]).toEqual([0, 100])
  expect(
    readTrace([write, `2 fdatasync(9<${log}> <unfinished ...>`, answer, '2 <... fdatasync resumed>) = 0'].join('\n'))
      .early,
  ).toBe(1)
  expect(readTrace([write, `2 fdatasync(9<${log}>) = 0`, answer].join('\n'))).toMatchObject({ answers: 1, early: 0 })
})
