import { describe, expect, it } from 'vitest'
import { PercolateError } from '../../../src/base/errors.ts'
import { createLogger } from '../../../src/base/logger.ts'
import { Metrics } from '../../../src/base/metrics.ts'
import { REFUSAL_LINES_MAX, REFUSALS_WINDOW_MS, Refusals } from '../../../src/base/refusals.ts'

const LEVELS = { 30: 'info', 40: 'warn', 50: 'error' } as Record<number, string>

function refusalsAt(level = 'info') {
  const lines: Record<string, unknown>[] = []
  const logger = createLogger({
    level,
    role: 'test',
    destination: { write: (line: string) => lines.push(JSON.parse(line)) },
  })
  const waits: { ms: number; end: () => void }[] = []
  const sleep = (ms: number, { signal }: { signal?: AbortSignal } = {}) =>
    new Promise<void>((resolve, reject) => {
      waits.push({ ms, end: resolve })
      signal?.addEventListener('abort', () => reject(signal.reason))
    })
  const metrics = new Metrics()
  const refusals = new Refusals({ logger, metrics, time: { sleep } })
  const said = () =>
    lines.splice(0).map(({ level, code, msg }) => `${LEVELS[level as number]} ${code} ${String(msg).slice(0, 40)}`)
  const endWindow = async () => {
    const [wait] = waits.splice(0)
    expect(wait!.ms).toBe(REFUSALS_WINDOW_MS)
    wait!.end()
    await new Promise(setImmediate)
  }
  const counted = async (code: string) =>
    (await metrics.registry.getSingleMetric('percolate_errors_total')!.get()).values.find(
      ({ labels }) => labels.code === code,
    )?.value
  return { refusals, lines, said, waits, endWindow, counted }
}
const busy = () => new PercolateError('TOO_BUSY', 'A queue is full.')
const broken = () => new PercolateError('INTERNAL', 'Internal error.', { cause: new Error('a defect') })

describe('refusals in the log', () => {
  it('each is told while they are few, with what it was refused for, and a defect with its cause', () => {
    const { refusals, lines } = refusalsAt()
    refusals.tell(busy(), { request: 'r1', route: '/x' })
    refusals.tell(broken(), { request: 'r2' })
    expect(lines).toMatchObject([
      { level: 40, code: 'TOO_BUSY', request: 'r1', route: '/x', msg: 'A queue is full.' },
      { level: 50, code: 'INTERNAL', request: 'r2', err: { message: 'a defect' } },
    ])
    expect(lines[0]).not.toHaveProperty('err')
  })

  it('of one code no more than the bound in a window, whatever others say; the end of the window names the rest', async () => {
    const { refusals, said, endWindow, counted } = refusalsAt()
    for (let n = 0; n < REFUSAL_LINES_MAX + 312; n++) refusals.tell(busy())
    for (let n = 0; n < REFUSAL_LINES_MAX + 1; n++) refusals.tell(broken())
    refusals.tell(new PercolateError('SHUTTING_DOWN', 'Draining.'))
    const lines = said()
    expect(lines.filter(line => line.startsWith('warn TOO_BUSY'))).toHaveLength(REFUSAL_LINES_MAX)
    expect(lines.filter(line => line.startsWith('error INTERNAL'))).toHaveLength(REFUSAL_LINES_MAX)
    expect(lines).toContain('info SHUTTING_DOWN Draining.')
    await endWindow()
    expect(said()).toEqual([
      'warn TOO_BUSY 312 more of TOO_BUSY in the last 10 s',
      'error INTERNAL 1 more of INTERNAL in the last 10 s',
    ])
    expect(await counted('TOO_BUSY')).toBe(REFUSAL_LINES_MAX + 312)
  })

  it('a window begins with the first line after the last one, and a quiet one ends without a word', async () => {
    const { refusals, said, waits, endWindow } = refusalsAt()
    expect(waits).toEqual([])
    refusals.tell(busy())
    await endWindow()
    expect(said()).toHaveLength(1)
    expect(waits).toEqual([])
    for (let n = 0; n < REFUSAL_LINES_MAX; n++) refusals.tell(busy())
    expect(said()).toHaveLength(REFUSAL_LINES_MAX)
    await endWindow()
    expect(said()).toEqual([])
  })

  it('what the log does not show by its level is counted by the metrics only', async () => {
    const { refusals, said, waits, counted } = refusalsAt()
    for (let n = 0; n < 3; n++) refusals.tell(new PercolateError('NOT_FOUND', 'There is none.'))
    expect(said()).toEqual([])
    expect(waits).toEqual([])
    expect(await counted('NOT_FOUND')).toBe(3)
  })

  it('a stop says what was left out by then, once', async () => {
    const { refusals, said, endWindow } = refusalsAt()
    for (let n = 0; n < REFUSAL_LINES_MAX + 2; n++) refusals.tell(busy())
    said()
    refusals.flush()
    expect(said()).toEqual(['warn TOO_BUSY 2 more of TOO_BUSY in the last 10 s'])
    refusals.flush()
    await endWindow()
    expect(said()).toEqual([])
  })
})
