import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { Recorded } from '../../../test-topology/record.ts'
import { remove, tempFolder } from '../../support/running.ts'

it('keeps the latest in memory, and a file that does not grow without end', async () => {
  const folder = await tempFolder()
  const path = join(folder, 'samples.jsonl')
  await writeFile(path, '"of the run before"\n')
  const recorded = new Recorded<number>(path, 10)
  for (let n = 1; n <= 100; n++) {
    recorded.add(n)
    await recorded.written()
    const lines = (await readFile(path, 'utf8')).trim().split('\n').map(Number)
    expect(lines.length).toBeLessThanOrEqual(20)
    expect(lines.slice(-10)).toEqual(recorded.items)
    expect(lines.at(-1)).toBe(n)
  }
  expect(recorded.items).toEqual([91, 92, 93, 94, 95, 96, 97, 98, 99, 100])
  await remove(folder)
})
