import { stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { makeFolder } from '../../../src/base/make-folder.ts'
import { DataDir } from '../../../src/tenant/data-dir.ts'
import { tempFolder } from '../../support/running.ts'

const setting = 'PERCOLATE_DATA_DIR'

it('makes what is missing, for its owner alone, and leaves what is there', async () => {
  const folder = join(await tempFolder(), 'a', 'b', 'c')
  await Promise.all([makeFolder(folder, { setting }), makeFolder(folder, { setting })])
  await makeFolder(folder, { setting })
  expect((await stat(folder)).mode & 0o777).toBe(0o700)
})

it('says at once what cannot be made, and which setting names another', async () => {
  const file = join(await tempFolder(), 'file')
  await writeFile(file, '')
  const refused = (code: string) => ({
    code: 'CONFIG_INVALID',
    message: expect.stringMatching(new RegExp(`can't be made \\(${code}\\); set PERCOLATE_DATA_DIR`)),
  })
  await expect(makeFolder(join(file, 'below'), { setting })).rejects.toMatchObject(refused('ENOTDIR'))
  await expect(makeFolder(file, { setting })).rejects.toMatchObject(refused('ENOTDIR'))
  // Where Linux keeps its processes nothing can be made, and Node's recursive mkdir never ends.
  if (process.platform !== 'linux') return
  await expect(makeFolder('/proc/percolate/tenants', { setting })).rejects.toMatchObject(refused('ENOENT'))
  await expect(DataDir.open('/proc/percolate', undefined)).rejects.toMatchObject({ code: 'CONFIG_INVALID' })
})
