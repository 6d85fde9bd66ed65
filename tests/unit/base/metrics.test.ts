import { expect, it } from 'vitest'
import { Metrics } from '../../../src/base/metrics.ts'

it('a page asks for all that has to be asked for at once, and leaves out what fails', async () => {
  const metrics = new Metrics()
  const asked = new Set<string>()
  let all = () => {}
  const together = new Promise<void>(resolve => {
    all = resolve
  })
  const ask = async (name: string) => {
    if (asked.add(name).size === 4) all()
    await together
    if (name === 'b') throw new Error('away')
    return 7
  }
  metrics.labelledGauge('waiting', 'What waits', 'tier', ['a', 'b', 'c'], ask)
  metrics.asyncGauge('used', 'What is used', () => ask('used'))
  const page = (await metrics.registry.metrics()).split('\n').filter(line => /^(waiting|used)/.test(line))
  expect(page).toEqual(['waiting{tier="a"} 7', 'waiting{tier="c"} 7', 'used 7'])
})
