import { describe, expect, it } from 'vitest'
import { parseTenantId } from '../../src/base/ids.ts'
import { type Clock, formatClock } from '../../src/clock/hlc.ts'
import type { Op } from '../../src/rem/record.ts'
import type { SimAnswer, SimCluster } from './cluster.ts'
import { checkFeeds, checkToldClocks } from './feeds.ts'
import { check, type FinalCopy, type History, newHistory } from './history.ts'
import { Watch } from './watch.ts'

describe('the checkers, on doctored histories', () => {
  const clock = (wall: number) => ({ wall, counter: 0, origin: 'n1.d1' })
  const record = (put: number, del?: number) => ({
    put: clock(put),
    del: del === undefined ? undefined : clock(del),
    fields: new Map([['property:p', { clock: clock(put), value: 'tenant:a; 1' }]]),
  })
  const copy = (node: string, put?: number, rest: Partial<FinalCopy> = {}): FinalCopy => ({
    node,
    tenant: 'a',
    records: new Map(put === undefined ? [] : [['entity e', record(put)]]),
    bytes: new Map(put === undefined ? [] : [['entity e', String(put)]]),
    vector: new Map([['n1.d1', 1]]),
    outboxEntries: 0,
    problems: [],
    setAside: new Map(),
    ...rest,
  })
  const acked = (wall: number, rest: Partial<History['acked'][number]> = {}): History => ({
    ...newHistory(),
    acked: [
      {
        tenant: 'a',
        record: 'entity e',
        field: 'property:p',
        action: 'put',
        clock: clock(wall),
        reached: 'stream',
        disk: 'd1n1',
        atMs: 0,
        position: new Map(),
        ifVersion: undefined,
        ...rest,
      },
    ],
  })

  it('accept one in which everything is there', () => {
    expect(check(acked(5), [copy('n1', 5), copy('n2', 5)])).toEqual([])
    expect(check(acked(5), [copy('n1', 7), copy('n2', 7)])).toEqual([])
  })
  it('find a lost write', () => {
    expect(check(acked(5), [copy('n1', 3), copy('n2', 3)]).join()).toMatch(/is lost/)
    expect(check(acked(5), [copy('n1'), copy('n2')]).join()).toMatch(/is lost/)
    expect(check(acked(5), []).join()).toMatch(/no copy left/)
  })
  it('find a local write lost from a disk that was not', () => {
    expect(check(acked(5, { reached: 'local' }), [copy('n1', 3)]).join()).toMatch(/is lost/)
    const lost = { ...acked(5, { reached: 'local' }), lostDisks: new Map([['d1n1', Number.NEGATIVE_INFINITY]]) }
    expect(check(lost, [copy('n1', 3)])).toEqual([])
  })
  it('find copies that differ, in records or vectors', () => {
    expect(check(acked(5), [copy('n1', 5), copy('n2', 6)]).join()).toMatch(/differs between n1 and n2/)
    expect(check(acked(5), [copy('n1', 5), copy('n2', 5, { vector: new Map() })]).join()).toMatch(
      /vectors of n1 and n2/,
    )
  })
  it('find what was deleted and is back', () => {
    const deleted = acked(9, { action: 'del', field: undefined })
    expect(check(deleted, [copy('n1', 5)]).join()).toMatch(/is back/)
    expect(check(deleted, [copy('n1', 10)])).toEqual([])
    expect(check(deleted, [copy('n1')])).toEqual([])
  })
  it('find entries that never left, other tenants, damaged indexes, lost updates', () => {
    expect(check(acked(5), [copy('n1', 5, { outboxEntries: 1 })]).join()).toMatch(/to publish/)
    expect(check(acked(5), [copy('n1', 5, { problems: ['index entry is missing'] })]).join()).toMatch(/index entry/)
    const foreign = {
      ...copy('n1', 5),
      records: new Map([
        ['entity e', { ...record(5), fields: new Map([['property:p', { clock: clock(5), value: 'tenant:b; 1' }]]) }],
      ]),
    }
    expect(check(acked(5), [foreign]).join()).toMatch(/another tenant/)
  })
  it('find two conditional writes that were acknowledged on one version', () => {
    const write = (n: number) => ({
      name: `write ${n}`,
      kind: 'written' as const,
      calledAtMs: n,
      answeredAtMs: n + 0.5,
      expected: 'none',
      version: `v${n}`,
    })
    const history = (...writes: number[]) => ({
      ...acked(5),
      conditionals: new Map([['a entity e', writes.map(write)]]),
    })
    expect(check(history(1), [copy('n1', 6)])).toEqual([])
    expect(check(history(1, 2), [copy('n1', 6)]).join()).toMatch(/write 1 and write 2 were both acknowledged/)
  })
  it('find a feed that passed over a change, and one that tells of what nobody wrote', () => {
    const opOf = (record: string, action: Op['action'], at: Clock): Op => {
      const [kind, ...key] = record.split(' ')
      return { kind: kind as Op['kind'], key, action, clock: at, fields: {} }
    }
    const entry = (sequence: number, record: string, action: Op['action'] = 'put', wall = sequence) => ({
      tenant: 'a',
      origin: 'n1.d1',
      sequence,
      changes: [{ record, clock: clock(wall), op: opOf(record, action, clock(wall)) }],
    })
    const window = (latest: [string, number][], deleted: [string, number][] = []) => ({
      tenant: 'a',
      start: new Map([['n1.d1', 1]]),
      end: new Map([['n1.d1', 3]]),
      latest: new Map(latest.map(([record, wall]) => [record, formatClock(clock(wall))])),
      deleted: new Map(deleted.map(([record, wall]) => [record, formatClock(clock(wall))])),
    })
    const entries = [entry(1, 'entity x'), entry(2, 'entity e'), entry(3, 'entity f'), entry(4, 'entity y')]
    const find = (latest: [string, number][], isSetAside = false) =>
      checkFeeds([window(latest)], entries, () => isSetAside)
    const both: [string, number][] = [
      ['entity e', 2],
      ['entity f', 3],
    ]
    expect(find(both)).toEqual([])
    // Something later of the same record tells of it too.
    expect(find([['entity e', 9], both[1]!])).toEqual([])
    expect(find([both[0]!]).join()).toMatch(/passed over 1 changes.*entity f/)
    expect(find([['entity e', 1], both[1]!]).join()).toMatch(/passed over 1 changes.*entity e/)
    expect(find([], true)).toEqual([])
    const edge = [entry(2, 'edge e knows f')]
    expect(checkFeeds([window([], [['entity f', 3]])], edge, () => false)).toEqual([])
    expect(checkFeeds([window([], [['entity f', 1]])], edge, () => false).join()).toMatch(/passed over 1/)
    // What changes nothing in the record as it was at the start is no news; what a register of it lacked is.
    const superseding = [entry(1, 'entity e', 'del', 9), entry(2, 'entity e')]
    expect(checkFeeds([window([])], superseding, () => false)).toEqual([])
    const older = [entry(1, 'entity e', 'del', 1), entry(2, 'entity e')]
    expect(checkFeeds([window([])], older, () => false).join()).toMatch(/passed over 1/)
    const lost = (_: string, __: string, { wall }: Clock) => wall === 9
    expect(checkFeeds([window([])], superseding, lost).join()).toMatch(/passed over 1/)
    const hidden = [entry(1, 'entity f', 'del', 9), entry(2, 'edge e knows f')]
    expect(checkFeeds([window([])], hidden, () => false)).toEqual([])
    const attempted = [{ clock: clock(2) }]
    const told = (deletes: string[], others: string[]) => ({ deletes: new Set(deletes), others: new Set(others) })
    const [written, unwritten] = [formatClock(clock(2)), formatClock(clock(3))]
    expect(checkToldClocks(told([written], [written]), attempted)).toEqual([])
    expect(checkToldClocks(told([], [unwritten]), attempted).join()).toMatch(/nobody wrote/)
    expect(checkToldClocks(told([unwritten], []), attempted).join()).toMatch(/nobody wrote/)
    // The clock of a floor stands for that of a delete which it has collected, and for no other change.
    expect(checkToldClocks(told(['floor'], []), attempted, new Set(['floor']))).toEqual([])
    expect(checkToldClocks(told([], ['floor']), attempted, new Set(['floor'])).join()).toMatch(/nobody wrote/)
  })
  describe('while the cluster lives', () => {
    const a = parseTenantId('a')
    const node = (id: string, isHome: boolean, vector: [string, number][], isCurrent = true) => ({
      id,
      disk: { id: 'd1' },
      process: {
        pausedUntilMs: 0,
        replica: { homes: { holdsLease: () => isHome }, copies: { isCurrent: () => isCurrent } },
        pool: { openTenants: () => [{ id: a, vector: new Map(vector) }] },
      },
    })
    const look = (nodes: ReturnType<typeof node>[], sequence = 0, isMadeAnew = false) => {
      const history = newHistory()
      const log = { streams: new Map() }
      const cluster = { nodes, log, world: { nowMs: 5 }, note: () => {} } as unknown as SimCluster
      const watch = new Watch(cluster, [a], history)
      const answer = { node: 'n1', disk: 'd1', position: new Map([['n1.d1', sequence]]) } as unknown as SimAnswer
      if (isMadeAnew) watch.madeAnew('n1', 'd1', a)
      watch.acknowledged(a, answer, 1)
      watch.look()
      return history.violations.join()
    }
    it('find two homes at once', () => {
      expect(look([node('n1', true, []), node('n2', false, [])])).toBe('')
      expect(look([node('n1', true, []), node('n2', true, [])])).toMatch(/n1 and n2 are the home of a at once/)
    })
    it('find a copy that calls itself current and lacks what it acknowledged', () => {
      expect(look([node('n1', true, [['n1.d1', 3]])], 3)).toBe('')
      expect(look([node('n1', true, [['n1.d1', 2]])], 3)).toMatch(/lacks a write that it acknowledged/)
      expect(look([node('n1', true, [['n1.d1', 2]], false)], 3)).toBe('')
      expect(look([node('n1', true, [['n1.d1', 2]])], 3, true)).toBe('')
    })
  })
})
