import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { PACKAGE_FOLDER } from '../../src/base/version.ts'
import { mutations } from './mutations.ts'

describe('planted bugs', () => {
  it.each(mutations.map(mutation => [mutation.name, mutation] as const))(
    '"%s" fits the code as it is',
    (_, { edits }) => {
      const found = edits.map(({ file, from }) => {
        const code = readFileSync(join(PACKAGE_FOLDER, 'dist', file), 'utf8')
        return { file, from, times: code.split(from).length - 1 }
      })
      expect(found.filter(({ times }) => times !== 1)).toEqual([])
    },
  )
})
