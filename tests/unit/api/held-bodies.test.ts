import { type AddressInfo, connect, type Socket } from 'node:net'
import fastify from 'fastify'
import { afterEach, describe, expect, it } from 'vitest'
import { HeldBodies, SMALL_BODY_BYTES } from '../../../src/api/held-bodies.ts'
import { addTenantHook } from '../../../src/api/http/call.ts'
import { systemTime } from '../../../src/base/time.ts'

const LARGE = SMALL_BODY_BYTES + 1

describe('the bodies that a node holds', () => {
  it('are bounded together, but one alone and small ones are taken', () => {
    const bodies = new HeldBodies(2 * LARGE)
    const huge = bodies.hold(10 * LARGE)
    expect(() => bodies.hold(LARGE)).toThrow(/PERCOLATE_HELD_BODY_BYTES_MAX/)
    const small = bodies.hold(SMALL_BODY_BYTES)
    huge()
    huge()
    expect([bodies.held, bodies.refused]).toEqual([SMALL_BODY_BYTES, 1])
    small()
    const both = [bodies.hold(LARGE), bodies.hold(LARGE)]
    expect(() => bodies.hold(LARGE)).toThrow(expect.objectContaining({ code: 'TOO_BUSY', retryAfterS: 1 }))
    both[0]!()
    bodies.hold(LARGE)()
    both[1]!()
    expect([bodies.held, bodies.refused]).toEqual([0, 2])
  })

  it('of one tenant take no more than half of the room, and leave the rest to others', () => {
    const bodies = new HeldBodies(4 * LARGE)
    const held = [bodies.hold(LARGE, 'acme'), bodies.hold(LARGE, 'acme')]
    expect(() => bodies.hold(LARGE, 'acme')).toThrow(/of this tenant/)
    held.push(bodies.hold(SMALL_BODY_BYTES, 'acme'), bodies.hold(LARGE, 'globex'))
    for (const release of held) release()
    expect(bodies.held).toBe(0)
    bodies.hold(2 * LARGE, 'acme')()
  })

  it('count what has come of one that is still coming, and nothing of it afterwards', () => {
    const bodies = new HeldBodies(2 * LARGE)
    const [first, second] = [bodies.arriving('acme'), bodies.arriving('globex')]
    expect(bodies.held).toBe(0)
    first.add(2 * LARGE)
    second.add(SMALL_BODY_BYTES)
    expect(() => second.add(2)).toThrow(expect.objectContaining({ code: 'TOO_BUSY' }))
    first.release()
    second.add(2)
    second.release()
    second.release()
    second.add(LARGE)
    expect(bodies.held).toBe(0)
  })
})

describe('a body that does not come to its end', () => {
  const clock = { now: 0, monotonic: () => clock.now }
  const comingFor = (bodies: HeldBodies, bytes: number, tenant: string) => {
    const told: unknown[] = []
    const body = bodies.arriving(tenant, error => told.push(error))
    body.add(bytes - 1)
    body.add(1)
    return { body, told }
  }

  it('gives way after five seconds to one that has no room, though bytes of it come all the time, and not before', () => {
    const bodies = new HeldBodies(4 * LARGE, clock)
    const [first, second] = ['acme', 'globex'].map(tenant => comingFor(bodies, 2 * LARGE - 1, tenant))
    clock.now += 4000
    expect(() => bodies.check(LARGE, 'other')).toThrow(/PERCOLATE_HELD_BODY_BYTES_MAX/)
    second!.body.add(1)
    clock.now += 1000
    const third = comingFor(bodies, LARGE, 'other')
    expect(first!.told).toEqual([expect.objectContaining({ code: 'TOO_BUSY' })])
    expect([second!.told, third.told]).toEqual([[], []])
    first!.body.add(LARGE)
    first!.body.release()
    expect(bodies.held).toBe(3 * LARGE)
  })

  it('that is whole, or of a tenant that has no part in the other having no room, does not', () => {
    const bodies = new HeldBodies(4 * LARGE, clock)
    const whole = comingFor(bodies, 2 * LARGE, 'acme')
    whole.body.whole()
    const other = comingFor(bodies, LARGE, 'globex')
    clock.now += 6000
    expect(() => bodies.check(LARGE, 'acme')).toThrow(/of this tenant/)
    bodies.check(LARGE, 'other')
    expect([whole.told, other.told]).toEqual([[], []])
    expect(() => bodies.check(3 * LARGE, 'other')).toThrow(expect.objectContaining({ code: 'TOO_BUSY' }))
    expect(other.told).toEqual([])
    const message = comingFor(bodies, LARGE, 'other')
    const release = message.body.split(LARGE)
    clock.now += 6000
    message.body.add(LARGE)
    clock.now += 1000
    expect(() => bodies.check(4 * LARGE, 'fourth')).toThrow(expect.objectContaining({ code: 'TOO_BUSY' }))
    expect(message.told).toEqual([])
    release()
  })
})

describe('a stream of messages', () => {
  it('gives way for the message that is coming, not for those before, and not while it is held back', () => {
    const clock = { now: 0, monotonic: () => clock.now }
    const bodies = new HeldBodies(4 * LARGE, clock)
    const told: unknown[] = []
    const body = bodies.arriving(undefined, error => told.push(error))
    const others = bodies.hold(2 * LARGE)
    const full = () => {
      try {
        bodies.check(2 * LARGE, 'acme')
        return false
      } catch {
        return true
      }
    }
    // Frames end where they like: with each message comes the beginning of the next.
    body.add(LARGE)
    for (let n = 0; n < 5; n++) {
      clock.now += 2000
      body.add(LARGE)
      body.split(LARGE)()
      expect([full(), told]).toEqual([true, []])
    }
    clock.now += 4000
    body.resumed()
    clock.now += 4000
    expect([full(), told]).toEqual([true, []])
    clock.now += 1000
    expect([full(), told.length]).toEqual([false, 1])
    others()
  })

  it('does not give way to itself, nor has another go for it in vain', () => {
    const clock = { now: 0, monotonic: () => clock.now }
    const bodies = new HeldBodies(4 * LARGE, clock)
    const told: string[] = []
    const [other, self] = ['other', 'self'].map(name => bodies.arriving(name, () => told.push(name)))
    other!.add(LARGE)
    self!.add(LARGE)
    const held = bodies.hold(2 * LARGE)
    clock.now += 6000
    expect(() => self!.add(2 * LARGE)).toThrow(expect.objectContaining({ code: 'TOO_BUSY' }))
    expect(told).toEqual([])
    self!.add(LARGE)
    expect(told).toEqual(['other'])
    held()
  })
})

describe('a request with a body', () => {
  const closing: (() => unknown)[] = []
  afterEach(async () => {
    for (const close of closing.splice(0).reverse()) await close()
  })

  async function serve(bytesMax: number, time = systemTime as Pick<typeof systemTime, 'monotonic'>) {
    const bodies = new HeldBodies(bytesMax, time)
    const app = fastify({ bodyLimit: 100 * LARGE })
    app.setErrorHandler((error, _request, reply) => reply.code(503).send({ code: (error as { code: string }).code }))
    const hook = { time: systemTime, asOfAheadMsMax: 1000, onTenant: () => {}, bodies, bodyBytesMax: 100 * LARGE }
    await app.register(async scope => {
      addTenantHook(scope, hook)
      scope.post('/api', async () => 'taken')
    })
    await app.listen({ port: 0, host: '127.0.0.1' })
    closing.push(() => app.close())
    const open = (tenant: string, headers: string): Socket => {
      const socket = connect((app.server.address() as AddressInfo).port, '127.0.0.1')
      closing.push(() => socket.destroy())
      socket.write(
        `POST /api HTTP/1.1\r\nhost: h\r\ncontent-type: text/plain\r\nx-tenant-id: ${tenant}\r\n${headers}\r\n\r\n`,
      )
      return socket
    }
    const answer = (socket: Socket) =>
      new Promise<string>(resolve => socket.once('data', data => resolve(data.toString().split('\r\n')[0]!)))
    return { bodies, open, answer }
  }

  it.each([
    ['announced', `content-length: ${2 * LARGE}`, 'x'.repeat(LARGE)],
    ['chunked', 'transfer-encoding: chunked', `${LARGE.toString(16)}\r\n${'x'.repeat(LARGE)}\r\n`],
    ['small', 'content-length: 100', 'x'],
  ])('is not held when its client goes before it is whole (%s)', async (_, headers, some) => {
    const { bodies, open } = await serve(10 * LARGE)
    const socket = open('acme', headers)
    socket.write(some)
    await expect.poll(() => bodies.held).toBeGreaterThan(0)
    socket.destroy()
    await expect.poll(() => bodies.held).toBe(0)
  })

  it('takes no room for what it announces and does not send', async () => {
    const { bodies, open, answer } = await serve(4 * LARGE)
    const idle = Array.from({ length: 8 }, (_, n) => open(`idle-${n}`, `content-length: ${2 * LARGE}`))
    for (const socket of idle) socket.write('x')
    await expect.poll(() => bodies.held).toBe(8)
    const socket = open('acme', `content-length: ${2 * LARGE}`)
    socket.write('x'.repeat(2 * LARGE))
    expect(await answer(socket)).toMatch(/ 200 /)
    await expect.poll(() => bodies.held).toBe(8)
  })

  it('is refused when there is no more room while it comes, and hears so', async () => {
    const { bodies, open, answer } = await serve(5 * LARGE)
    const slow = open('acme', `content-length: ${2 * LARGE}`)
    const other = open('globex', `content-length: ${2 * LARGE}`)
    for (const socket of [slow, other]) socket.write('x'.repeat(LARGE))
    const late = open('initech', `content-length: ${2 * LARGE}`)
    await expect.poll(() => bodies.held).toBe(2 * LARGE)
    // Let in, since there was room for all of it; then the others went on.
    late.write('x'.repeat(SMALL_BODY_BYTES / 2))
    await expect.poll(() => bodies.held).toBe(2 * LARGE + SMALL_BODY_BYTES / 2)
    for (const socket of [slow, other]) socket.write('x'.repeat(LARGE - 1))
    await expect.poll(() => bodies.held).toBe(4 * LARGE - 2 + SMALL_BODY_BYTES / 2)
    const refusal = answer(late)
    late.write('x'.repeat(2 * LARGE - SMALL_BODY_BYTES / 2))
    expect(await refusal).toMatch(/ 503 /)
    expect(bodies.refused).toBe(1)
  })

  it('that never ends makes room for others after a while, and its client hears so', async () => {
    const clock = { now: 0, monotonic: () => clock.now }
    const { bodies, open, answer } = await serve(2 * LARGE, clock)
    const slow = open('slow', `content-length: ${2 * LARGE}`)
    slow.write('x'.repeat(2 * LARGE - 1))
    await expect.poll(() => bodies.held).toBe(2 * LARGE - 1)
    const refusal = answer(slow)
    const post = async () => {
      const socket = open('acme', `content-length: ${LARGE}`)
      socket.write('x'.repeat(LARGE))
      return answer(socket)
    }
    expect(await post()).toMatch(/ 503 /)
    clock.now += 5000
    expect(await post()).toMatch(/ 200 /)
    expect(await refusal).toMatch(/ 503 /)
    await expect.poll(() => bodies.held).toBe(0)
  })

  it('is taken when it is small, whether it says so or not, and however full it is', async () => {
    const { bodies, open, answer } = await serve(4 * LARGE)
    for (const tenant of ['slow', 'other'])
      open(tenant, `content-length: ${2 * LARGE}`).write('x'.repeat(2 * LARGE - 1))
    await expect.poll(() => bodies.held).toBe(4 * LARGE - 2)
    const announced = open('acme', 'content-length: 5')
    announced.write('small')
    expect(await answer(announced)).toMatch(/ 200 /)
    const chunked = open('acme', 'transfer-encoding: chunked')
    chunked.write('5\r\nsmall\r\n0\r\n\r\n')
    expect(await answer(chunked)).toMatch(/ 200 /)
    const large = open('acme', 'transfer-encoding: chunked')
    large.write(`${LARGE.toString(16)}\r\n${'x'.repeat(LARGE)}\r\n`)
    expect(await answer(large)).toMatch(/ 503 /)
  })
})
