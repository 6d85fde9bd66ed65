import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { COUNTER_MAX, compareClocks, formatClock, HybridLogicalClock, parseClock } from '../../../src/clock/hlc.ts'

const clock = fc.record({
  wall: fc.integer({ min: 0, max: 2 ** 48 - 1 }),
  counter: fc.integer({ min: 0, max: COUNTER_MAX }),
  origin: fc.stringMatching(/^[a-z0-9][a-z0-9.]{0,8}$/),
})

describe('hybrid logical clock', () => {
  it('only goes forward, however the wall clock jumps and whatever it observes', () => {
    fc.assert(
      fc.property(fc.array(fc.oneof(fc.integer({ min: 0, max: 1000 }), clock), { maxLength: 50 }), steps => {
        let now = 0
        const hlc = new HybridLogicalClock({ now: () => now, origin: 'n' })
        let last = hlc.tick()
        for (const step of steps) {
          if (typeof step === 'number') now = step
          else if (step.wall < 2 ** 47) hlc.observe(step)
          const foreseen = hlc.next()
          expect(hlc.next()).toEqual(foreseen)
          const next = hlc.tick()
          expect(next).toEqual(foreseen)
          expect(compareClocks(next, last)).toBeGreaterThan(0)
          if (typeof step !== 'number' && step.wall < 2 ** 47)
            expect(next.wall > step.wall || (next.wall === step.wall && next.counter > step.counter)).toBe(true)
          last = next
        }
      }),
    )
  })

  it('resumes above what was persisted, and carries over a full counter', () => {
    const hlc = new HybridLogicalClock({
      now: () => 5,
      origin: 'n',
      resumeAbove: { wall: 9, counter: COUNTER_MAX, origin: 'n' },
    })
    expect(hlc.tick()).toEqual({ wall: 10, counter: 0, origin: 'n' })
  })

  it('has a text form that comes back and sorts like the clock', () => {
    fc.assert(
      fc.property(clock, clock, (a, b) => {
        expect(parseClock(formatClock(a))).toEqual(a)
        const [x, y] = [formatClock(a), formatClock(b)]
        expect(Math.sign(compareClocks(a, b))).toBe(x < y ? -1 : x > y ? 1 : 0)
      }),
    )
  })

  it.each(['', 'x', '0-0-n', '000000000001-00000000-', '000000000001-00000000-a b', '00000000000G-00000000-n'])(
    'refuses %j',
    text => {
      expect(parseClock(text)).toBeUndefined()
    },
  )
})
