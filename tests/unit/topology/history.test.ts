import { describe, expect, it } from 'vitest'
import { checkHistory, type WriteEvent } from '../../../test-topology/history.ts'

const write = (value: number, clock: string | undefined, action: WriteEvent['action'] = 'put'): WriteEvent => ({
  tenant: 't',
  entity: 'e',
  action,
  value,
  acked: clock === undefined ? undefined : { clock, reached: 'stream', node: 'n1' },
})
const check = (
  writes: WriteEvent[],
  values: (number | undefined)[],
  reads: { bookmarkValue: number; seen?: number }[] = [],
) =>
  checkHistory(
    { writes, reads: reads.map(({ bookmarkValue, seen }) => ({ tenant: 't', entity: 'e', bookmarkValue, seen })) },
    new Map([['t/e', values]]),
  ).join('; ')

describe('the checker of real histories, on doctored ones', () => {
  it('accepts the write with the latest clock, or one whose fate is open', () => {
    expect(check([write(1, '01'), write(2, '02')], [2, 2])).toBe('')
    expect(check([write(1, '05'), write(2, '02')], [1, 1])).toBe('')
    expect(check([write(1, '01'), write(2, undefined)], [2, 2])).toBe('')
    expect(check([write(1, '01'), write(2, undefined)], [1, 1])).toBe('')
  })
  it('finds a lost write, and one that was never written', () => {
    expect(check([write(1, '01'), write(2, '02')], [1, 1])).toMatch(
      /the write of 2, acknowledged as stream by n1, is lost/,
    )
    expect(check([write(1, '01')], [undefined])).toMatch(/is lost: nothing is there/)
    expect(check([write(1, '01')], [7])).toMatch(/never written/)
  })
  it('finds what was deleted and is back, and accepts what is gone', () => {
    expect(check([write(1, '01'), write(2, '02', 'delete')], [1])).toMatch(/is back/)
    expect(check([write(1, '01'), write(2, '02', 'delete')], [undefined])).toBe('')
    expect(check([write(1, '01'), write(2, undefined, 'delete')], [undefined])).toBe('')
  })
  it('finds nodes that differ, and registers that nobody read', () => {
    expect(check([write(1, '01'), write(2, undefined)], [1, 2])).toMatch(/differs between nodes/)
    expect(checkHistory({ writes: [write(1, '01')], reads: [] }, new Map()).join()).toMatch(/not read at the end/)
  })
  it('finds a stale read under a bookmark', () => {
    const writes = [write(1, '01'), write(2, '02'), write(3, undefined)]
    expect(check(writes, [2], [{ bookmarkValue: 2, seen: 1 }])).toMatch(/bookmark of 2 saw 1/)
    expect(check(writes, [2], [{ bookmarkValue: 1 }])).toMatch(/saw nothing/)
    expect(
      check(
        writes,
        [2],
        [
          { bookmarkValue: 1, seen: 2 },
          { bookmarkValue: 2, seen: 3 },
        ],
      ),
    ).toBe('')
  })
})
