import { performance } from 'node:perf_hooks'
import { afterAll, expect, it } from 'vitest'
import { bareServer } from '../../support/http-server.ts'

const app = bareServer()
afterAll(() => app.close())
for (let n = 0; n < 40; n++) app.put(`/things/${n}/:id`, async () => ({}))

it('names the methods of a path that is there, with slashes at its end or without', async () => {
  for (const url of ['/things/7/x', '/things/7/x/', '/things/7/x///']) {
    const answer = await app.inject({ method: 'POST', url })
    expect([url, answer.statusCode, answer.headers.allow]).toEqual([url, 405, 'PUT'])
  }
  for (const url of ['/things/7', '/things/7/x/y', `/things/7/x${'/y'.repeat(100)}`])
    expect((await app.inject({ method: 'POST', url })).statusCode).toBe(404)
})

/** As long as Node takes them, less what else is in a head. */
const CHARS = 14_000
/** The least of some times that a path takes, ms. */
async function msOf(url: string): Promise<number> {
  let least = Number.POSITIVE_INFINITY
  for (let n = 0; n < 5; n++) {
    const sinceMs = performance.now()
    expect((await app.inject({ method: 'GET', url })).statusCode).toBe(404)
    least = Math.min(least, performance.now() - sinceMs)
  }
  return least
}

it.each([
  ['slashes', `/${'/'.repeat(CHARS)}x`],
  ['slashes at its end', `/x${'/'.repeat(CHARS)}`],
  ['parts', `/${'x/'.repeat(CHARS / 2)}x`],
])('takes no longer for a path of %s than a few times what one of as many letters takes', async (_, url) => {
  const plainMs = await msOf(`/${'x'.repeat(CHARS)}`)
  expect((await msOf(url)) / plainMs).toBeLessThan(20)
})
