import { cp, mkdir, mkdtemp, readdir, rename, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { bootId } from '../../../src/base/boot-id.ts'
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

describe('the origin under which a node writes', () => {
  /** As when the process is killed, what is on disk is what was there before it ended in order. */
  const runs = async (folder: string, boot: string | undefined, end: 'in order' | 'cut short') => {
    const place = join(path, folder)
    const dir = await DataDir.open(place, 'n1', Promise.resolve(boot))
    const { origin } = dir
    if (end === 'cut short') await cp(place, `${place}.killed`, { recursive: true })
    await dir.close()
    if (end === 'cut short') {
      await rm(place, { recursive: true })
      await rename(`${place}.killed`, place)
    }
    return origin
  }

  it('stays when the process dies, and when the node ended in order before the machine went down', async () => {
    const first = await runs('stays', 'monday', 'cut short')
    expect(first).toMatch(/^n1\.[0-9a-f]{8}$/)
    expect(await runs('stays', 'monday', 'cut short')).toBe(first)
    expect(await runs('stays', 'monday', 'in order')).toBe(first)
    expect(await runs('stays', 'tuesday', 'in order')).toBe(first)
    expect(await runs('stays', undefined, 'in order')).toBe(first)
  })

  it('is another one, from then on, when the machine went down under it', async () => {
    const first = await runs('another', 'monday', 'cut short')
    const second = await runs('another', 'tuesday', 'cut short')
    expect(second).toMatch(/^n1\.[0-9a-f]{8}\.[0-9a-f]{8}$/)
    expect(second.startsWith(first)).toBe(true)
    expect(await runs('another', 'tuesday', 'in order')).toBe(second)
    expect(await runs('another', 'wednesday', 'cut short')).toBe(second)
    const third = await runs('another', 'thursday', 'in order')
    expect(third).toMatch(/^n1\.[0-9a-f]{8}\.[0-9a-f]{8}$/)
    expect(third).not.toBe(second)
  })

  it('is another one after each death where the start of the machine is not known', async () => {
    const first = await runs('unknown', undefined, 'cut short')
    expect(await runs('unknown', undefined, 'in order')).not.toBe(first)
  })
})

it('the start of the machine is known here, and stays', async () => {
  expect(await bootId()).toMatch(/^[0-9a-fA-F-]{8,}$/)
  expect(await bootId()).toBe(await bootId())
})

it('databases of other incarnations are set aside one beside the other, and none goes for another', async () => {
  const dir = await DataDir.open(path, 'n1')
  const places: string[] = []
  for (const incarnation of ['first', 'second', 'second']) {
    await mkdir(dir.tenantPath(acme))
    await writeFile(join(dir.tenantPath(acme), 'CURRENT'), incarnation)
    places.push(await dir.setOtherAside(acme, incarnation))
    expect(await dir.hasTenant(acme)).toBe(false)
  }
  await dir.close()
  expect(new Set(places).size).toBe(3)
  const kept = (await readdir(join(path, 'other-incarnations'))).map(name => name.slice(0, name.lastIndexOf('.')))
  expect(kept.sort()).toEqual(['acme.first', 'acme.second', 'acme.second'])
})
