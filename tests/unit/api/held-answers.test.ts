import fastify from 'fastify'
import { afterEach, describe, expect, it } from 'vitest'
import { HeldCalls } from '../../../src/api/grpc/held-calls.ts'
import { HeldAnswers, SMALL_ANSWER_BYTES } from '../../../src/api/held-answers.ts'
import { addTenantHook } from '../../../src/api/http/call.ts'
import { systemTime } from '../../../src/base/time.ts'

const LARGE = SMALL_ANSWER_BYTES + 1
const tooBusy = expect.objectContaining({ code: 'TOO_BUSY' })

describe('answers that are not taken', () => {
  it('are bounded together and to half for one tenant; alone each is taken', () => {
    const answers = new HeldAnswers(4 * LARGE)
    const alone = answers.answer('acme')
    alone.atLeast(10 * LARGE)
    alone.atLeast(LARGE)
    expect(answers.held).toBe(10 * LARGE)
    expect(() => answers.answer('globex').atLeast(LARGE)).toThrow(/of this node.*PERCOLATE_HELD_ANSWER_BYTES_MAX/)
    answers.answer('globex').atLeast(SMALL_ANSWER_BYTES)
    alone.release()
    const [first, second] = [answers.answer('acme'), answers.answer('acme')]
    first.atLeast(LARGE)
    second.atLeast(LARGE)
    expect(() => second.atLeast(2 * LARGE)).toThrow(/of this tenant/)
    expect(second.amount).toBe(LARGE)
    expect(answers.refused).toBe(2)
  })

  it('that cannot be refused fill the bound once more; then nothing begins', () => {
    const answers = new HeldAnswers(4 * LARGE)
    const written = answers.answer('acme')
    written.count(3 * LARGE)
    answers.admit('acme')
    written.count(LARGE)
    expect(() => answers.admit('acme')).toThrow(tooBusy)
    answers.admit('globex')
    answers.answer('globex').count(4 * LARGE)
    expect(() => answers.admit('initech')).toThrow(tooBusy)
    written.release()
    answers.admit('initech')
  })
})

describe('an answer by HTTP', () => {
  const closing: (() => unknown)[] = []
  afterEach(async () => {
    for (const close of closing.splice(0)) await close()
  })

  it('to a read is refused when there is no room, one to a write is not', async () => {
    const answers = new HeldAnswers(2 * LARGE)
    const app = fastify()
    closing.push(() => app.close())
    app.setErrorHandler((error, _request, reply) => reply.code(503).send({ code: (error as { code: string }).code }))
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
    const beside = answers.answer('acme')
    beside.count(LARGE)
    expect(await ask('GET')).toEqual([503, false])
    expect(await ask('PUT')).toEqual([200, true])
    beside.count(LARGE)
    expect(await ask('PUT')).toEqual([503, false])
    beside.release()
    await expect.poll(() => answers.held).toBe(0)
  })
})

it('calls of one service take no place of another, and those of one tenant half', () => {
  const calls = new HeldCalls(4)
  const held = [calls.hold('/a.Rem/Get', 'acme'), calls.hold('/a.Rem/List', 'acme')]
  expect(() => calls.hold('/a.Rem/Get', 'acme')).toThrow(/of this tenant.*PERCOLATE_GRPC_CALLS_MAX/)
  for (const tenant of ['globex', 'initech']) held.push(calls.hold('/a.Rem/Get', tenant))
  expect(() => calls.hold('/a.Rem/Get', 'umbrella')).toThrow(tooBusy)
  held.push(calls.hold('/b.Health/Check'))
  expect([calls.held, calls.refused]).toEqual([5, 2])
  for (const release of held) release()
  expect(calls.held).toBe(0)
})
