import { describe, expect, it } from 'vitest'
import type { Outcome } from '../../../test-topology/faults/doors.ts'
import { missingChanges } from '../../../test-topology/faults/feeds.ts'
import { idleProblem } from '../../../test-topology/faults/idle.ts'
import { Recorder } from '../../../test-topology/faults/recorder.ts'
import { explained, unforgotten } from '../../../test-topology/faults/recovery.ts'
import { checkHistory } from '../../../test-topology/history.ts'
import { checkLinearizable, type RegisterOperation } from '../../../test-topology/linearizable.ts'

const done = (clock: string, reached = 'stream'): Outcome => ({
  kind: 'done',
  clock,
  reached,
  node: 'node-1',
  bookmark: '',
  standing: undefined,
})
const put = (recorder: Recorder, entity: string, value: number, outcome: Outcome) =>
  recorder.write({ tenant: 't', entity, action: 'put', value })(outcome)

describe('what the clients of a fault run remember', () => {
  it('a refused write is none, one without an answer may be there or not, an acknowledged one must', () => {
    const recorder = new Recorder(1)
    put(recorder, 'e', 1, done('1'))
    put(recorder, 'e', 2, { kind: 'open', code: 'no answer in time' })
    put(recorder, 'e', 3, { kind: 'refused', code: 'PRECONDITION_FAILED' })
    const ends = (value: number) => checkHistory(recorder.promised, new Map([['t/e', [value]]]))
    expect([ends(1), ends(2)]).toEqual([[], []])
    expect(ends(3)).toEqual([expect.stringContaining('the value 3 was never written')])
    expect(Object.fromEntries(recorder.refused)).toEqual({ 'no answer in time': 1, PRECONDITION_FAILED: 1 })
  })

  it('what a disk that went bad had at `local` need not survive, all else must', () => {
    const recorder = new Recorder(1)
    put(recorder, 'e', 1, done('1'))
    const loss = recorder.mayLose('t', 'node-1', performance.now())
    put(recorder, 'e', 2, done('2', 'local'))
    loss.untilMs = performance.now()
    const ends = (value: number) => checkHistory(recorder.promised, new Map([['t/e', [value]]])).length
    expect([ends(1), ends(2)]).toEqual([0, 0])
    put(recorder, 'f', 3, done('3'))
    expect(
      checkHistory(
        recorder.promised,
        new Map([
          ['t/e', [1]],
          ['t/f', [undefined]],
        ]),
      ).length,
    ).toBe(1)
  })
})

describe('the check of a feed', () => {
  const recorder = new Recorder(1)
  put(recorder, 'e', 1, done('1'))
  put(recorder, 'e', 2, done('2'))
  recorder.resources.push({
    tenant: 't',
    id: 'r',
    content: 'text',
    reached: 'local',
    node: 'node-1',
    clock: '3',
    calledAtMs: performance.now(),
  })
  const check = (seen: Record<string, string>, expiredAtMs = Number.NEGATIVE_INFINITY) =>
    missingChanges(recorder, 't', new Map(Object.entries(seen)), expiredAtMs)

  it('wants the last change of every record, whatever came of those before it', () => {
    expect(check({ 'entity/e': '2', 'resource/r': '3' })).toEqual({ missing: [], expected: 2 })
    expect(check({ 'entity/e': '1', 'resource/r': '3' }).missing).toEqual(['entity/e'])
    expect(check({ 'entity/e': '2' }).missing).toEqual(['resource/r'])
    expect(missingChanges(recorder, 'another', new Map(), Number.NEGATIVE_INFINITY).expected).toBe(0)
  })
  it('wants nothing from before it said that it must be read anew', () => {
    expect(check({}, performance.now())).toEqual({ missing: [], expected: 0 })
  })
})

describe('the check of an idle cluster', () => {
  it('allows some more than before, and no retries without end', () => {
    const before = { messages: 70, cpu: 0.1 }
    expect(idleProblem(before, { messages: 150, cpu: 0.1 })).toBeUndefined()
    expect(idleProblem(before, { messages: 900, cpu: 0.9 })).toMatch(/900 messages a second/)
  })
})

describe('the check of conditional writes', () => {
  const operation = (
    kind: RegisterOperation['kind'],
    calledAtMs: number,
    expected: string,
    version?: string,
  ): RegisterOperation => ({
    name: `${kind} at ${calledAtMs}`,
    kind,
    calledAtMs,
    answeredAtMs: kind === 'unknown' ? Number.POSITIVE_INFINITY : calledAtMs + 1,
    expected,
    version,
  })
  const verdict = (...operations: RegisterOperation[]) => checkLinearizable(explained(operations), 'none').verdict

  it('lets a refusal be by a write that nobody acknowledged and the next home never saw, and by nothing else', () => {
    const after = operation('written', 20, 'none', 'a')
    expect(verdict(operation('unknown', 0, 'none', 'u'), operation('refused', 10, 'none'), after)).toBe('linearizable')
    expect(verdict(operation('refused', 10, 'none'), after)).toBe('violated')
    expect(verdict(operation('unknown', 15, 'none', 'u'), operation('refused', 10, 'none'), after)).toBe('violated')
    const twice = operation('written', 30, 'none', 'b')
    expect(verdict(operation('unknown', 0, 'none', 'u'), after, twice)).toBe('violated')
  })

  it('lets the next home not know what was decided just before the streams were lost, and nothing from before or after', () => {
    const judge = (...operations: RegisterOperation[]) =>
      verdict(...unforgotten(operations, [{ fromMs: 100, untilMs: 200 }]))
    const chain = (atMs: number) => [
      operation('written', atMs, 'none', 'a'),
      { ...operation('read', atMs + 5, 'none', 'a'), expected: undefined },
      operation('written', 300, 'none', 'b'),
    ]
    expect(judge(...chain(150))).toBe('linearizable')
    expect(judge(...chain(50))).toBe('violated')
    expect(judge(...chain(250))).toBe('violated')
    // Who saw it later on has to be right all the same.
    expect(judge(...chain(150), { ...operation('read', 310, 'none', 'c'), expected: undefined })).toBe('violated')
  })
})
