import { describe, expect, it } from 'vitest'
import { checkLinearizable, type RegisterOperation } from '../../test-topology/linearizable.ts'

type Kind = RegisterOperation['kind']
let made = 0
const operation = (
  kind: Kind,
  [calledAtMs, answeredAtMs]: readonly [number, number],
  expected: string | undefined,
  version?: string,
): RegisterOperation => ({ name: `operation ${++made}`, kind, calledAtMs, answeredAtMs, expected, version })
const verdict = (...operations: RegisterOperation[]) => checkLinearizable(operations, 'none').verdict
const never = Number.POSITIVE_INFINITY

describe('the check for linearizability', () => {
  it('accepts writes one after the other, and those that overlap in any order', () => {
    expect(verdict()).toBe('linearizable')
    expect(verdict(operation('written', [0, 1], 'none', 'a'), operation('written', [2, 3], 'a', 'b'))).toBe(
      'linearizable',
    )
    expect(verdict(operation('written', [0, 9], 'a', 'b'), operation('written', [1, 8], 'none', 'a'))).toBe(
      'linearizable',
    )
  })
  it('finds two writes that decided on one version', () => {
    const found = checkLinearizable(
      [operation('written', [0, 1], 'none', 'a'), operation('written', [5, 6], 'none', 'b')],
      'none',
    )
    expect(found.verdict).toBe('violated')
    expect(found.reason).toMatch(/both acknowledged on the version none/)
  })
  it('finds a write that decided on what was written only later, or by nobody', () => {
    expect(verdict(operation('written', [0, 1], 'a', 'b'), operation('written', [2, 3], 'none', 'a'))).toBe('violated')
    expect(verdict(operation('written', [0, 1], 'x', 'b'))).toBe('violated')
  })
  it('finds a refusal that nothing explains, and accepts one that an overlapping or an unknown write does', () => {
    const first = operation('written', [0, 1], 'none', 'a')
    expect(verdict(first, operation('refused', [2, 3], 'a'))).toBe('violated')
    expect(verdict(first, operation('refused', [2, 5], 'a'), operation('written', [3, 6], 'a', 'b'))).toBe(
      'linearizable',
    )
    expect(verdict(first, operation('refused', [2, 3], 'a'), operation('unknown', [1, never], 'a', 'u'))).toBe(
      'linearizable',
    )
    // Called only after the refusal.
    expect(verdict(first, operation('refused', [2, 3], 'a'), operation('unknown', [4, never], 'a', 'u'))).toBe(
      'violated',
    )
  })
  it('lets an unknown write take effect once, at any time after its call, whatever its condition, or never', () => {
    const unknown = operation('unknown', [0, never], 'none', 'u')
    expect(verdict(unknown)).toBe('linearizable')
    expect(verdict(unknown, operation('written', [1, 2], 'none', 'a'))).toBe('linearizable')
    expect(verdict(unknown, operation('written', [1, 2], 'none', 'a'), operation('written', [8, 9], 'u', 'b'))).toBe(
      'linearizable',
    )
    // Once: `a` can come neither before nor after it.
    expect(
      verdict(
        unknown,
        operation('written', [1, 2], 'u', 'a'),
        operation('written', [3, 4], 'a', 'b'),
        operation('read', [5, 6], undefined, 'u'),
      ),
    ).toBe('violated')
    expect(verdict(operation('read', [0, 1], undefined, 'u'), operation('unknown', [2, never], 'none', 'u'))).toBe(
      'violated',
    )
  })
  it('finds reads that go back', () => {
    const history = [operation('written', [0, 1], 'none', 'a'), operation('written', [2, 3], 'a', 'b')]
    expect(verdict(...history, operation('read', [4, 5], undefined, 'b'))).toBe('linearizable')
    expect(verdict(...history, operation('read', [4, 5], undefined, 'a'))).toBe('violated')
    expect(verdict(...history, operation('read', [2, 5], undefined, 'a'))).toBe('linearizable')
  })
  it('gives up in time, and says so', () => {
    const many = Array.from({ length: 14 }, (_, n) => operation('written', [0, 100], undefined, `v${n}`))
    const impossible = [...many, operation('read', [0, 100], undefined, 'v0'), operation('refused', [200, 201], 'v3')]
    expect(verdict(...impossible)).toBe('linearizable')
    const reads = many.map(({ version }) => operation('read', [200, 201], undefined, version))
    expect(checkLinearizable([...many, ...reads], 'none', 1000).verdict).toBe('undecided')
  })
  it('takes long histories of thousands of writes with many that are unknown', () => {
    const history: RegisterOperation[] = []
    let version = 'none'
    for (let n = 0; n < 5000; n++) {
      const next = `v${n}`
      const kind = n % 7 === 3 ? 'unknown' : 'written'
      const isSeen = n % 2 === 1
      history.push(operation(kind, [n * 10, kind === 'unknown' ? never : n * 10 + 25], version, next))
      if (kind === 'written' || isSeen) version = next
      if (n % 5 === 0) history.push(operation('refused', [n * 10 + 26, n * 10 + 30], 'none'))
    }
    const { verdict: found, steps } = checkLinearizable(history, 'none')
    expect(found).toBe('linearizable')
    expect(steps).toBeLessThan(100_000)
    const twice = history.findLastIndex(({ kind }) => kind === 'written')
    history.push({ ...history[twice]!, version: 'again' })
    expect(checkLinearizable(history, 'none').verdict).toBe('violated')
  })
})
