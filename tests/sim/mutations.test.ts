import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { PACKAGE_FOLDER } from '../../src/base/version.ts'
import { mutations } from './mutations.ts'

it('every planted bug still has its place in the compiled code, one and no more', () => {
  const read = new Map<string, string>()
  const lost = mutations.flatMap(({ name, edits }) =>
    edits.flatMap(({ file, from }) => {
      const code = read.get(file) ?? readFileSync(join(PACKAGE_FOLDER, 'dist', file), 'utf8')
      read.set(file, code)
      const places = code.split(from).length - 1
      return places === 1 ? [] : [`${name}: ${JSON.stringify(from)} is ${places} times in ${file}`]
    }),
  )
  expect(lost).toEqual([])
})
