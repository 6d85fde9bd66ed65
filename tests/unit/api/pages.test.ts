import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { stringifyInSlices } from '../../../src/api/http/pages.ts'
import { PageBytes } from '../../../src/base/page-bytes.ts'
import { Slicer } from '../../../src/base/slice.ts'
import { turnsDuring } from '../../support/turns.ts'

describe('answers that are made into JSON in slices', () => {
  it('are what JSON.stringify makes of them, whether whole or in parts', async () => {
    const item = fc.oneof(
      fc.json().map(text => JSON.parse(text) as unknown),
      fc.constant(undefined),
      fc.string(),
    )
    const answer = fc.record(
      { results: fc.array(item), edges: fc.array(item), truncated: fc.boolean(), cursor: fc.option(fc.string()) },
      { requiredKeys: [] },
    )
    await fc.assert(
      fc.asyncProperty(answer, async value => {
        const whole = JSON.stringify(value)
        expect(String(await stringifyInSlices(value, new Slicer()))).toBe(whole)
        await turnsDuring(async () => expect(String(await stringifyInSlices(value, new Slicer()))).toBe(whole))
      }),
      { numRuns: 100 },
    )
    expect(await stringifyInSlices({ cursor: undefined }, new Slicer())).toBe('{}')
  })

  it('carry the JSON of what was counted as it was made then, once', async () => {
    let made = 0
    const result = { id: '"漢字"', toJSON: () => ({ made: ++made, text: '"漢字"' }) }
    expect(new PageBytes().take(result)).toBe(true)
    const json = await stringifyInSlices({ results: [result] }, new Slicer())
    expect([json, made]).toEqual(['{"results":[{"made":1,"text":"\\"漢字\\""}]}', 1])
  })

  it('leave the event loop to others between their items', async () => {
    const results = Array.from({ length: 100 }, (_, n) => ({ id: String(n), content: '長い'.repeat(10_000) }))
    const turns = await turnsDuring(async () =>
      expect(JSON.parse(String(await stringifyInSlices({ results }, new Slicer())))).toEqual({ results }),
    )
    expect(turns).toBeGreaterThanOrEqual(100)
  })

  it('stop when nobody waits any more', async () => {
    const gone = () => {
      throw new Error('gone')
    }
    const results = Array.from({ length: 100 }, () => 'x'.repeat(10_000))
    await turnsDuring(() => expect(stringifyInSlices({ results }, new Slicer(gone))).rejects.toThrow('gone'))
  })
})
