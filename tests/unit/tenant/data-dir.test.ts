import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { parseTenantId } from '../../../src/base/ids.ts'
import { DataDir } from '../../../src/tenant/data-dir.ts'

const acme = parseTenantId('acme')
let path: string

beforeAll(async () => {
  path = await mkdtemp(join(tmpdir(), 'percolate-data-dir-'))
})
afterAll(() => rm(path, { recursive: true, force: true }))

it('a note of a making outlives the process until it is taken back, or another one takes its place', async () => {
  const reopen = async <T>(work: (dir: DataDir) => Promise<T>): Promise<T> => {
    const dir = await DataDir.open(path, 'n1')
    return work(dir).finally(() => dir.close())
  }
  const noted = () => reopen(async dir => dir.makingOf(acme))
  expect(await noted()).toBeUndefined()
  await reopen(dir => dir.makingTenant(acme, 'first'))
  expect(await noted()).toBe('first')
  await reopen(dir => dir.makingTenant(acme, 'second'))
  expect(await noted()).toBe('second')
  await reopen(dir => dir.madeTenant(acme))
  expect(await noted()).toBeUndefined()
})
