import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { readFile, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { PACKAGE_FOLDER } from '../../src/base/version.ts'
import { killSeries } from '../../test-topology/kill-series.ts'
import { isAlive, type Launched, launchUp, runCli } from '../../test-topology/launch.ts'
import { makePdf } from '../support/documents.ts'
import { eventually, remove, request, tempFolder } from '../support/running.ts'

let folder: string
let up: Launched
beforeAll(async () => {
  folder = await tempFolder()
  up = await launchUp({ dataDir: join(folder, 'data') })
})
afterAll(async () => {
  await up.stop()
  await remove(folder)
})
const addresses = () => ['--url', up.url, '--gateway', up.gateway, '-t', 'cli']

describe('percolate up', () => {
  it('says what runs where, and warns of nothing', () => {
    expect(up.output()).toMatch(/Percolate is ready/)
    expect(up.output().match(/curl /g)?.length).toBe(3)
    expect(up.output()).not.toMatch(/warn|deprecat|"level":(40|50|60)/i)
  })

  it('is refused a second time on the same data, and on a taken port, with one clear sentence', async () => {
    const second = await runCli(['up', '--data-dir', join(folder, 'data')])
    expect([second.code, second.stderr.trim().split('\n').length]).toEqual([1, 1])
    expect(second.stderr).toMatch(/Another Percolate process uses the data directory/)
    const server = createServer().listen(0, '127.0.0.1')
    await new Promise(resolve => server.once('listening', resolve))
    const port = (server.address() as { port: number }).port
    const flags = ['--http-port', '--grpc-port', '--gateway-port', '--nats-port', '--s3-port']
    const refusals = flags.map(async flag => {
      const free = flags.slice(0, 3).flatMap(other => (other === flag ? [] : [other, '0']))
      const refused = await runCli(['up', '--data-dir', join(folder, `taken${flag}`), ...free, flag, String(port)], {
        PERCOLATE_LOG_LEVEL: 'error',
      })
      expect(refused.code).toBe(1)
      expect(refused.stderr.trim()).toMatch(new RegExp(`^percolate: .*${port}.*in use.*$`))
    })
    await Promise.all(refusals)
    server.close()
  })

  it('names every wrong setting at once', async () => {
    const { code, stderr } = await runCli(['up', '--http-port', 'x'], {
      PERCOLATE_GRPC_PORT: '99999',
      PERCOLATE_S3_ENDPOINT: 'nope',
      PERCOLATE_CHAT_URL: 'http://x',
    })
    expect(code).toBe(1)
    for (const part of ['--http-port', 'PERCOLATE_GRPC_PORT', 'PERCOLATE_S3_ENDPOINT', 'PERCOLATE_CHAT_MODEL'])
      expect(stderr).toContain(part)
    expect((await runCli(['up', '--lease-ms', '1000'])).stderr).toContain('--lease-ms (PERCOLATE_LEASE_MS) must be')
    expect((await runCli(['search', 'x', '-n', '0'])).stderr).toMatch(/--limit.*from 1 to 1000/)
    expect((await runCli(['up', '--help'])).stdout).toMatch(/Jobs and parsing:\n[\s\S]*Uploads:\n/)
  })

  it("README's five minutes works when it is pasted", async () => {
    const readme = await readFile(join(PACKAGE_FOLDER, 'README.md'), 'utf8')
    const block = /## Five minutes[\s\S]*?```sh\n([\s\S]*?)```/.exec(readme)![1]!
    const script = block.replaceAll('http://127.0.0.1:8081', up.gateway).replaceAll('http://127.0.0.1:8080', up.url)
    expect(script).not.toMatch(/127\.0\.0\.1:808\d/)
    const { stdout } = await promisify(execFile)('bash', ['-ec', script], { cwd: folder })
    const answers = stdout.split(/(?<=\})(?=\{)/).map(text => JSON.parse(text))
    expect(answers).toEqual([
      expect.objectContaining({ status: 'completed' }),
      expect.objectContaining({ results: [expect.objectContaining({ name: expect.stringContaining('pump.txt') })] }),
      expect.objectContaining({
        citations: expect.arrayContaining([expect.objectContaining({ document: 'pump.txt' })]),
      }),
    ])
    expect(answers[2].choices[0].message.content).toContain('24 months')
  })

  it('does what the command line asks: ingest a folder, search, chat, put, get, jobs, status', async () => {
    const documents = join(folder, 'documents')
    await (await import('node:fs/promises')).mkdir(documents, { recursive: true })
    await writeFile(
      join(documents, 'pump.pdf'),
      await makePdf([{ heading: 'Pump manual', lines: ['The impeller must be replaced every 5000 hours.'] }]),
    )
    await writeFile(join(documents, 'notes.md'), '# Notes\n\nThe pump room key hangs behind the door.')
    await writeFile(join(documents, 'broken.pdf'), 'not a pdf')
    const ingested = await runCli(['ingest', documents, ...addresses(), '--json'])
    const report = JSON.parse(ingested.stdout)
    expect([ingested.code, report.files, report.failed]).toEqual([1, 3, 1])
    const people = await runCli(['ingest', join(documents, 'notes.md'), ...addresses()])
    expect([people.code, people.stdout]).toEqual([0, expect.stringContaining('1 of 1 files are in')])
    const found = JSON.parse(
      (await runCli(['search', 'when to replace the impeller', ...addresses(), '--json'])).stdout,
    )
    expect(found.results[0].metadata).toMatchObject({ document: 'pump.pdf', page: 1 })
    expect((await runCli(['search', 'impeller', ...addresses()])).stdout).toContain('pump.pdf, page 1')
    expect((await runCli(['chat', 'Where is the pump room key?', ...addresses()])).stdout).toContain('behind the door')
    const id = (await runCli(['put', 'resource', '{"content":"put by hand"}', ...addresses()])).stdout.trim()
    expect(JSON.parse((await runCli(['get', 'resource', id, ...addresses()])).stdout).content).toBe('put by hand')
    expect((await runCli(['jobs', ...addresses()])).stdout).toMatch(/failed.*broken\.pdf.*DOCUMENT_UNSUPPORTED/)
    expect((await runCli(['status', ...addresses()])).stdout).toMatch(/node.*ready[\s\S]*gateway.*ready/)
    const away = await runCli(['search', 'x', '--url', 'http://127.0.0.1:1'])
    expect([away.code, away.stderr]).toEqual([1, expect.stringMatching(/does not answer.*running there\?.*--url/)])
    const typo = await runCli(['search', 'impeller', ...addresses().slice(0, 4), '-t', 'clli'])
    expect([typo.code, typo.stderr]).toEqual([1, expect.stringMatching(/"clli" holds nothing.*--tenant/)])
    const nothing = await runCli(['get', 'moments', ...addresses().slice(0, 4), '-t', 'clli', '--json'])
    expect([nothing.code, JSON.parse(nothing.stdout).results]).toEqual([1, []])
    const wrongPort = await runCli(['search', 'x', '--url', up.gateway])
    expect([wrongPort.code, wrongPort.stderr]).toEqual([1, expect.stringMatching(/upload gateway.*--url/)])
    for (const { stdout, stderr } of [ingested, people, typo, away]) expect(stdout + stderr).not.toContain('\u001b')
    expect(report.results.find(({ file }: { file: string }) => file.endsWith('broken.pdf')).error.detail).toMatch(/\.$/)
  })

  it('stops cleanly on SIGTERM, leaves no nats-server, and starts again on the same data', async () => {
    const { natsPid } = up
    expect(isAlive(natsPid)).toBe(true)
    expect(await up.stop()).toBe(0)
    expect(isAlive(natsPid)).toBe(false)
    up = await launchUp({ dataDir: join(folder, 'data') })
    const { body } = await request(`${up.url}/api/v1/resources?query=impeller`, 'GET', { tenant: 'cli' })
    expect(body.results[0].metadata.document).toBe('pump.pdf')
    const { body: jobs } = await request(`${up.gateway}/jobs`, 'GET', { tenant: 'cli' })
    expect(jobs.results.length).toBe(4)
  })

  it('leaves no nats-server even when it is killed with -9', async () => {
    const { natsPid } = up
    process.kill(up.pid, 'SIGKILL')
    await eventually('nats-server ends', async () => !isAlive(natsPid))
    up = await launchUp({ dataDir: join(folder, 'data') })
  })

  it('warns when it listens beyond this machine', async () => {
    const open = await launchUp({ dataDir: join(folder, 'open'), args: ['--host', '0.0.0.0'] })
    expect(open.output()).toMatch(/nothing is authenticated yet/)
    await open.stop()
  })
})

describe('kill -9 of the whole process group under load', () => {
  it('loses nothing that was acknowledged, and every index agrees with its records', { timeout: 240_000 }, async () => {
    const dataDir = join(folder, 'killed')
    const report = await killSeries({ dataDir, rounds: 4, writers: 6, loadMsMax: 2500, say: () => {} })
    expect(report.acknowledgedWrites, JSON.stringify(report.refusals)).toBeGreaterThan(20)
    expect(report.acknowledgedUploads).toBeGreaterThanOrEqual(2)
    expect({ lost: report.lost, problems: report.problems, unfinished: report.unfinishedJobs }).toEqual({
      lost: [],
      problems: [],
      unfinished: [],
    })
    expect(existsSync(dataDir)).toBe(true)
  })
})
