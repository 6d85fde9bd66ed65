import { type ChildProcess, spawn } from 'node:child_process'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { PACKAGE_FOLDER } from '../../src/base/version.ts'
import type { TopologyState } from '../../test-topology/control.ts'
import { isAlive, runCli } from '../../test-topology/launch.ts'
import { eventually, remove, tempFolder } from '../support/running.ts'

describe('percolate test-topology up', () => {
  let folder: string
  let child: ChildProcess
  let output = ''
  const topology = (...args: string[]) => runCli(['test-topology', ...args, '--data-dir', folder])
  beforeAll(async () => {
    folder = await tempFolder()
    const scaling = join(folder, 'scaling.yaml')
    const standard = await readFile(join(PACKAGE_FOLDER, 'k8s', 'tiers', 'small', 'scaling.yaml'), 'utf8')
    // Another manifest, another cluster.
    await writeFile(scaling, standard.replace('minReplicaCount: 3', 'minReplicaCount: 2'))
    child = spawn(
      process.execPath,
      [
        join(PACKAGE_FOLDER, 'bin', 'percolate.mjs'),
        ...['test-topology', 'up', '--nats', '1', '--speed', '60', '--json'],
        ...['--scaling', scaling, '--set', 'percolate-node.cooldownPeriod=6000', '--data-dir', folder],
      ],
      { stdio: ['ignore', 'pipe', 'inherit'] },
    )
    child.stdout!.setEncoding('utf8').on('data', (text: string) => {
      output += text
    })
    await eventually('it is described', async () => output.trimEnd().endsWith('}'), 60_000)
  }, 90_000)
  afterAll(async () => {
    child.kill('SIGKILL')
    await remove(folder)
  })

  it('does what its commands ask, scales as the manifest says, and leaves nothing behind', {
    timeout: 180_000,
  }, async () => {
    const { processes } = JSON.parse(output) as TopologyState
    expect(processes.filter(({ pid }) => pid !== undefined).map(({ name }) => name)).not.toContain('node-1')
    const simulated = await topology('simulate-tenant', 'acme', '--seconds', '4', '--json')
    expect(JSON.parse(simulated.stdout)).toMatchObject({ failed: 0, entered: [{ tenant: 'acme' }] })
    const observed = await topology('observe-scaling', '--seconds', '1', '--json')
    expect(JSON.parse(observed.stdout.split('\n')[0]!)).toMatchObject({ nodes: { wanted: 2 } })
    expect((await topology('verify-affinity', 'acme', '--requests', '50')).stdout).toMatch(/enter one node: passed/)
    expect((await topology('check-replication', 'acme', '--writes', '5')).stdout).toMatch(/equal/)
    expect((await topology('submit-jobs', '2')).stdout).toMatch(/2 of 2 jobs are completed/)
    expect((await topology('partition', 'zone-1', '--seconds', '1')).stdout).toMatch(/node-1 cut off from all/)
    expect((await topology('kill', 'node-2')).stdout).toMatch(/Killed node-2/)
    expect((await topology('up')).stderr).toMatch(/A topology runs with .* already/)
    const out = join(folder, 'report.html')
    expect((await topology('report', '--out', out)).stdout).toMatch(/samples/)
    expect(await readFile(out, 'utf8')).toMatch(/<svg[\s\S]*nodes: 0 → 2/)
    expect((await topology('kill', 'node-99')).stderr).toMatch(/no process node-99/)
    expect((await topology('partition', 'node-1', '--from', 'me')).stderr).toMatch(/--from must be nats, peers or all/)
    const pids = processes.flatMap(({ pid }) => pid ?? [])
    const exited = new Promise(resolve => child.once('exit', resolve))
    child.kill('SIGTERM')
    expect(await exited).toBe(0)
    expect(pids.filter(isAlive)).toEqual([])
    expect((await topology('observe-scaling')).stderr).toMatch(/No topology runs with the data directory/)
  })

  it('says what is wrong with its flags', async () => {
    const wrong = (...args: string[]) => runCli(['test-topology', ...args]).then(({ stderr }) => stderr)
    expect(await wrong('up', '--speed', '0')).toMatch(/number from 1 to 300/)
    expect(await wrong('up', '--nats', '2')).toMatch(/must be 1 or 3/)
    expect(await wrong('up', '--set', 'x')).toMatch(/--set must be NAME.PATH=VALUE/)
    expect(await wrong('up', '--scaling', '/nowhere.yaml')).toMatch(/nowhere.yaml/)
    expect(await wrong('scenario', 'nothing')).toMatch(/There is no scenario "nothing"; there are affinity/)
    expect(await wrong('simulate-tenant', 'no/way')).toMatch(/tenant/i)
  })
})
