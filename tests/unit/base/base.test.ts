import { Writable } from 'node:stream'
import { describe, expect, it } from 'vitest'
import { PercolateError, toPercolateError, toProblem } from '../../../src/base/errors.ts'
import { checkId, derivedId, parseTenantId } from '../../../src/base/ids.ts'
import { createLogger } from '../../../src/base/logger.ts'
import { Probes } from '../../../src/base/probes.ts'
import { retry } from '../../../src/base/retry.ts'
import { Semaphore } from '../../../src/base/semaphore.ts'
import { systemTime, type Time } from '../../../src/base/time.ts'

describe('semaphore', () => {
  it('bounds what is held and what waits, and serves in order', async () => {
    const semaphore = new Semaphore({ permits: 1, waitersMax: 2, name: 'tests' })
    const first = await semaphore.acquire()
    const order: number[] = []
    const second = semaphore.acquire().then(release => {
      order.push(2)
      return release
    })
    const controller = new AbortController()
    const third = semaphore.acquire(controller.signal)
    await expect(semaphore.acquire()).rejects.toMatchObject({ code: 'TOO_BUSY' })
    controller.abort()
    await expect(third).rejects.toMatchObject({ code: 'CANCELLED' })
    first()
    first()
    ;(await second)()
    expect([order, semaphore.held, semaphore.waiting]).toEqual([[2], 0, 0])
  })

  it('serves lower ranks first', async () => {
    const semaphore = new Semaphore({ permits: 1, waitersMax: 10, name: 'tests' })
    const order: string[] = []
    const use = async (name: string, rank?: number) => {
      const release = await semaphore.acquire(undefined, rank)
      order.push(name)
      release()
    }
    const release = await semaphore.acquire()
    const uses = [use('b', 2), use('c', 7), use('a'), use('b too', 2), use('a too')]
    release()
    await Promise.all(uses)
    expect(order).toEqual(['a', 'a too', 'b', 'b too', 'c'])
  })
})

describe('retry', () => {
  const waits: number[] = []
  const time: Time = { ...systemTime, sleep: async ms => void waits.push(ms) }
  it('tries again what can help, with growing waits, and gives up', async () => {
    let attempts = 0
    const failing = () => {
      attempts++
      return Promise.reject(new PercolateError('TOO_BUSY', 'busy'))
    }
    await expect(retry({ time, attemptsMax: 4, delayMs: 100, delayMsMax: 300 }, failing)).rejects.toMatchObject({
      code: 'TOO_BUSY',
    })
    expect([attempts, waits.length]).toEqual([4, 3])
    expect(Math.max(...waits)).toBeLessThanOrEqual(300)
    attempts = 0
    await expect(
      retry({ time, attemptsMax: 4, delayMs: 1, delayMsMax: 1 }, () => {
        attempts++
        return Promise.reject(new PercolateError('NOT_FOUND', 'no'))
      }),
    ).rejects.toMatchObject({ code: 'NOT_FOUND' })
    expect(attempts).toBe(1)
  })
})

describe('errors', () => {
  it('shows as much of what a client sent as can be read', () => {
    const long = 'x'.repeat(4_000_000)
    const { detail, field } = toProblem(
      new PercolateError('INVALID_ARGUMENT', `${long} is not known.`, { field: long }),
    )
    expect([detail.length, field?.length]).toEqual([1024, 1024])
  })

  it('that are not ours tell a client nothing', () => {
    const problem = toProblem(toPercolateError(new Error('password is hunter2')), 'r1')
    expect(problem).toMatchObject({ status: 500, code: 'INTERNAL', request_id: 'r1' })
    expect(JSON.stringify(problem)).not.toContain('hunter2')
  })
})

describe('logs', () => {
  it('hide what secret keys hold', () => {
    let out = ''
    const sink = new Writable({
      write(chunk, _encoding, done) {
        out += String(chunk)
        done()
      },
    })
    const logger = createLogger({ level: 'info', role: 'test', destination: sink })
    logger.info(
      { secretAccessKey: 'hunter2', headers: { authorization: 'hunter2' }, deep: { inner: { apiKey: 'hunter2' } } },
      'hello',
    )
    expect(out).toContain('hello')
    expect(out).not.toContain('hunter2')
  })
})

describe('ids', () => {
  it('derive from parts, not from their concatenation', () => {
    expect(derivedId('ab', 'c')).not.toBe(derivedId('a', 'bc'))
    expect(derivedId('a')).toMatch(/^[0-9a-f]{32}$/)
  })

  it.each(['.', '..', '', 'a\u0000', '\ud800', 'x'.repeat(600)])('refuse %j', id => {
    expect(() => checkId(id, 'id')).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT', field: 'id' }))
  })

  it.each(['a', '0', 'a-b_c', 'a'.repeat(63)])('take the tenant %j', tenant => {
    expect(parseTenantId(tenant)).toBe(tenant)
  })
})

describe('probes', () => {
  it('tell a sentence of ours, and nothing of others, and do not wait for ever', async () => {
    const probes = new Probes(20)
    probes.add('good', () => {})
    probes.add('ours', () => {
      throw new PercolateError('STREAM_UNAVAILABLE', 'NATS is away.')
    })
    probes.add('theirs', () => {
      throw new Error('connect to 10.0.0.1 with password hunter2 failed')
    })
    probes.add('slow', () => new Promise(() => {}))
    const { ready, probes: results } = await probes.check()
    expect(ready).toBe(false)
    expect(results.map(({ name, ok, detail }) => [name, ok, detail])).toEqual([
      ['good', true, undefined],
      ['ours', false, 'NATS is away.'],
      ['theirs', false, 'failed'],
      ['slow', false, 'no answer in time'],
    ])
  })
})
