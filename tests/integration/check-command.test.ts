import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { DataDir } from '../../src/tenant/data-dir.ts'
import { runCli } from '../../test-topology/launch.ts'
import { tempFolder } from '../support/running.ts'

it('a check of all tenants passes over one whose making was cut short, and says so', async () => {
  const path = await tempFolder()
  await (await DataDir.open(path, 'n1')).close()
  // As a node leaves it that is killed while it makes the database.
  await mkdir(join(path, 'tenants', 'acme'))
  const all = await runCli(['check', '--data-dir', path, '--json'])
  expect([all.code, JSON.parse(all.stdout)]).toEqual([0, { tenants: [], unmade: ['acme'] }])
  expect((await runCli(['check', '--data-dir', path])).stdout).toMatch(/acme: its making was cut short/)
  const named = await runCli(['check', 'acme', '--data-dir', path])
  expect([named.code, named.stderr]).toEqual([1, expect.stringMatching(/holds no tenant acme/)])
})
