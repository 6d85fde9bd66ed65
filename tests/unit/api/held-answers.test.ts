import { type AddressInfo, connect } from 'node:net'
import fastify from 'fastify'
import { afterEach, describe, expect, it } from 'vitest'
import { HeldCalls } from '../../../src/api/grpc/held-calls.ts'
import { HeldAnswers, SMALL_ANSWER_BYTES } from '../../../src/api/held-answers.ts'
import { addTenantHook } from '../../../src/api/http/call.ts'
import { holdAnswers } from '../../../src/api/http/hold-answers.ts'
import { SlowReaders } from '../../../src/api/slow-readers.ts'
import { Metrics } from '../../../src/base/metrics.ts'
import { systemTime } from '../../../src/base/time.ts'

const LARGE = SMALL_ANSWER_BYTES + 1
const tooBusy = expect.objectContaining({ code: 'TOO_BUSY' })

describe('answers that are not taken', () => {
  it('are bounded together and to half for one tenant; alone each is taken', () => {
    const answers = new HeldAnswers(4 * LARGE)
    const alone = answers.answer('acme', () => {})
    alone.atLeast(10 * LARGE)
    alone.atLeast(LARGE)
    expect(answers.held).toBe(10 * LARGE)
    expect(() => answers.answer('globex', () => {}).atLeast(LARGE)).toThrow(
      /of this node.*PERCOLATE_HELD_ANSWER_BYTES_MAX/,
    )
    answers.answer('globex', () => {}).atLeast(SMALL_ANSWER_BYTES)
    alone.release()
    const [first, second] = [answers.answer('acme', () => {}), answers.answer('acme', () => {})]
    first.atLeast(LARGE)
    second.atLeast(LARGE)
    expect(() => second.atLeast(2 * LARGE)).toThrow(/of this tenant/)
    expect(second.amount).toBe(LARGE)
    expect(answers.refused).toBe(2)
  })

  it('that cannot be refused fill the bound once more; then nothing begins', () => {
    const answers = new HeldAnswers(4 * LARGE)
    const written = answers.answer('acme', () => {})
    written.count(3 * LARGE)
    answers.admit('acme')
    written.count(LARGE)
    expect(() => answers.admit('acme')).toThrow(tooBusy)
    answers.admit('globex')
    answers.answer('globex', () => {}).count(4 * LARGE)
    expect(() => answers.admit('initech')).toThrow(tooBusy)
    written.release()
    answers.admit('initech')
  })
})

describe('large answers that had their time', () => {
  const begin = (bytesMax: number) => {
    let nowMs = 0
    const answers = new HeldAnswers(bytesMax, { time: { monotonic: () => nowMs }, patienceMs: 1000 })
    const cut: string[] = []
    const large = (tenant: string, name: string) => {
      const answer = answers.answer(tenant, () => cut.push(name))
      answer.atLeast(LARGE)
      return answer
    }
    return { answers, cut, large, pass: (ms: number) => (nowMs += ms) }
  }

  it('give way to others, the oldest first, and no more of them than have to', () => {
    const { answers, cut, large, pass } = begin(4 * LARGE)
    for (const name of ['a', 'b', 'c', 'd']) {
      large(name, name)
      pass(250)
    }
    expect(() => large('e', 'early')).not.toThrow()
    expect(cut).toEqual(['a'])
    expect(() => large('e', 'refused')).toThrow(tooBusy)
    pass(250)
    large('e', 'late')
    expect(cut).toEqual(['a', 'b'])
    expect(answers.held).toBe(4 * LARGE)
  })

  it('of others do not, when it is its own tenant that has no room', () => {
    const { cut, large, pass } = begin(6 * LARGE)
    large('other', 'other')
    for (const name of ['a', 'b', 'c']) large('acme', name)
    pass(1000)
    large('acme', 'd')
    expect(cut).toEqual(['a'])
  })

  it('and have gone hold nothing, whatever is counted for them later', () => {
    const { answers, cut, large, pass } = begin(2 * LARGE)
    const first = large('a', 'first')
    pass(1000)
    const second = large('b', 'second')
    second.atLeast(2 * LARGE)
    expect(cut).toEqual(['first'])
    first.count(LARGE)
    second.count(10 * LARGE)
    pass(1000)
    answers.admit('c')
    expect(cut).toEqual(['first', 'second'])
  })

  it('stay when that would not make room', () => {
    const { answers, cut, large, pass } = begin(6 * LARGE)
    for (const name of ['a', 'b', 'c']) large(name, name)
    pass(1000)
    const hog = large('hog', 'hog')
    hog.atLeast(3 * LARGE)
    // All is full, and so is the share of who asks.
    expect(() => large('hog', 'more')).toThrow(/of this tenant/)
    expect(() => answers.answer('other', () => {}).atLeast(4 * LARGE)).toThrow(/of this node/)
    expect(cut).toEqual([])
    large('other', 'other')
    expect(cut).toEqual(['a'])
  })

  it('are small ones, too, when nothing could begin else', () => {
    const { answers, cut, pass } = begin(4 * SMALL_ANSWER_BYTES)
    for (const tenant of ['a', 'b'])
      for (let n = 0; n < 4; n++) answers.answer(tenant, () => cut.push(tenant)).count(SMALL_ANSWER_BYTES)
    expect(() => answers.admit('c')).toThrow(tooBusy)
    pass(1000)
    answers.admit('c')
    expect(cut).toEqual(['a', 'a'])
  })

  it('begin anew with each part of a stream, and are none when they were taken', () => {
    const { answers, cut, large, pass } = begin(2 * LARGE)
    const stream = large('acme', 'stream')
    const taken = large('globex', 'taken')
    pass(999)
    stream.atLeast(LARGE)
    taken.release()
    large('globex', 'second')
    pass(1)
    expect(() => large('initech', 'refused')).toThrow(tooBusy)
    expect([cut, answers.held]).toEqual([[], 2 * LARGE])
  })
})

describe('an answer by HTTP', () => {
  const closing: (() => unknown)[] = []
  afterEach(async () => {
    for (const close of closing.splice(0)) await close()
  })

  function serve(answers: HeldAnswers) {
    const app = fastify()
    holdAnswers(app, answers, new SlowReaders(1000, new Metrics()))
    closing.push(() => app.close())
    app.setErrorHandler((error, _request, reply) => reply.code(503).send({ code: (error as { code: string }).code }))
    return app
  }

  it('that nobody takes goes with its connection, when it had its time and another needs the room', async () => {
    let nowMs = 0
    const answers = new HeldAnswers(4 * LARGE, { time: { monotonic: () => nowMs }, patienceMs: 1000 })
    const app = serve(answers)
    await app.register(async scope => {
      addTenantHook(scope, { time: systemTime, asOfAheadMsMax: 1000, onTenant: () => {}, answers })
      // More than the system takes off our hands for a connection.
      scope.get('/api', async () => 'x'.repeat(32 * 1024 * 1024))
      scope.get('/api/less', async () => 'x'.repeat(LARGE))
    })
    const url = await app.listen({ port: 0, host: '127.0.0.1' })
    const socket = connect((app.server.address() as AddressInfo).port, '127.0.0.1')
    socket.on('error', () => {})
    closing.unshift(() => socket.destroy())
    socket.pause()
    socket.write('GET /api HTTP/1.1\r\nHost: x\r\nX-Tenant-ID: acme\r\n\r\n')
    await expect.poll(() => answers.held).toBeGreaterThan(LARGE)
    const ask = async () => (await fetch(`${url}/api/less`, { headers: { 'x-tenant-id': 'globex' } })).status
    expect(await ask()).toBe(503)
    nowMs = 1000
    const closed = new Promise<void>(resolve => socket.once('close', () => resolve()))
    expect(await ask()).toBe(200)
    socket.resume()
    await closed
    await expect.poll(() => answers.held).toBe(0)
  })

  it('to who names no tenant has the share of one', async () => {
    const answers = new HeldAnswers(4 * LARGE)
    const app = serve(answers)
    app.get('/document', async () => 'x'.repeat(LARGE))
    const url = await app.listen({ port: 0, host: '127.0.0.1' })
    const status = async () => (await fetch(`${url}/document`)).status
    answers.answer('acme', () => {}).count(2 * LARGE)
    expect(await status()).toBe(200)
    await expect.poll(() => answers.held).toBe(2 * LARGE)
    answers.answer('', () => {}).count(LARGE)
    answers.answer('', () => {}).count(1)
    expect(await status()).toBe(503)
  })

  it('to a read is refused when there is no room, one to a write is not', async () => {
    const answers = new HeldAnswers(2 * LARGE)
    const app = serve(answers)
    await app.register(async scope => {
      addTenantHook(scope, { time: systemTime, asOfAheadMsMax: 1000, onTenant: () => {}, answers })
      scope.get('/api', async () => 'x'.repeat(LARGE))
      scope.put('/api', async () => 'x'.repeat(LARGE))
    })
    const url = await app.listen({ port: 0, host: '127.0.0.1' })
    const ask = async (method: string) => {
      const answer = await fetch(`${url}/api`, { method, headers: { 'x-tenant-id': 'acme' } })
      return [answer.status, (await answer.text()).length > SMALL_ANSWER_BYTES]
    }
    expect(await ask('GET')).toEqual([200, true])
    const beside = answers.answer('acme', () => {})
    beside.count(LARGE)
    expect(await ask('GET')).toEqual([503, false])
    expect(await ask('PUT')).toEqual([200, true])
    beside.count(LARGE)
    expect(await ask('PUT')).toEqual([503, false])
    beside.release()
    await expect.poll(() => answers.held).toBe(0)
  })

  it('to operators is never refused', async () => {
    const answers = new HeldAnswers(2 * LARGE)
    const app = serve(answers)
    app.get('/metrics', { config: { isForOperators: true } }, async () => 'x'.repeat(LARGE))
    const url = await app.listen({ port: 0, host: '127.0.0.1' })
    answers.answer('', () => {}).count(4 * LARGE)
    expect((await fetch(`${url}/metrics`)).status).toBe(200)
  })
})

describe('calls by gRPC', () => {
  it('of one service take no place of another, and those of one tenant half', () => {
    const calls = new HeldCalls(4)
    const held = [calls.hold('/a.Rem/Get', 'acme'), calls.hold('/a.Rem/List', 'acme')]
    expect(() => calls.hold('/a.Rem/Get', 'acme')).toThrow(/of this tenant.*PERCOLATE_GRPC_CALLS_MAX/)
    for (const tenant of ['globex', 'initech']) held.push(calls.hold('/a.Rem/Get', tenant))
    expect(() => calls.hold('/a.Rem/Get', 'umbrella')).toThrow(tooBusy)
    held.push(calls.hold('/b.Health/Check'))
    expect([calls.held, calls.refused]).toEqual([5, 2])
    for (const { release } of held) release()
    expect(calls.held).toBe(0)
  })

  it('that have not come whole give way to others in a moment, before those that have', () => {
    let nowMs = 0
    const calls = new HeldCalls(3, { time: { monotonic: () => nowMs }, patienceMs: 10_000 })
    const ended: string[] = []
    const hold = (name: string) => calls.hold('/a.Rem/Write', name, () => ended.push(name))
    hold('whole').begun()
    hold('silent')
    const dripping = hold('dripping')
    nowMs = 200
    expect(() => hold('early')).toThrow(tooBusy)
    dripping.heard()
    nowMs = 300
    hold('next')
    expect(ended).toEqual(['silent'])
    // A byte now and then keeps no place for long.
    for (nowMs = 400; nowMs < 2000; nowMs += 100) dripping.heard()
    hold('later')
    hold('last')
    expect(ended).toEqual(['silent', 'next', 'dripping'])
    nowMs = 12_000
    for (const name of ['a', 'b', 'c']) hold(name)
    expect(ended).toEqual(['silent', 'next', 'dripping', 'later', 'last', 'whole'])
  })

  it('that are silent for too long give way to others, the longest silent first', () => {
    let nowMs = 0
    const calls = new HeldCalls(4, { time: { monotonic: () => nowMs }, patienceMs: 1000 })
    const ended: string[] = []
    const hold = (tenant: string, name: string) => {
      const call = calls.hold('/a.Rem/Write', tenant, () => ended.push(name))
      call.begun()
      return call
    }
    const [first] = [hold('a', 'first'), hold('a', 'second'), hold('b', 'third'), hold('b', 'fourth')]
    nowMs = 999
    expect(() => hold('c', 'early')).toThrow(tooBusy)
    first!.heard()
    nowMs = 1000
    hold('c', 'fifth')
    expect(ended).toEqual(['second'])
    hold('b', 'sixth')
    expect(ended).toEqual(['second', 'third'])
    hold('c', 'seventh')
    expect([ended, calls.held]).toEqual([['second', 'third', 'fourth'], 4])
    expect(() => hold('d', 'refused')).toThrow(tooBusy)
  })
})
