import { describe, expect, it } from 'vitest'
import { startFileNode } from '../support/running.ts'

/** What one answer carries is counted in bytes: characters of most scripts take three, and JSON escapes what it must. */

const ANSWER_BYTES_MAX = 4 * 1024 * 1024
/** What stands around the results, and snippets. */
const FRAME_BYTES = 100_000

const node = await startFileNode()

/** All pages of a listing: how many results each has, when none is larger than an answer may be. */
async function pages(tenant: string, path: string): Promise<number[]> {
  const counts: number[] = []
  for (let cursor: string | undefined; counts.length === 0 || cursor; ) {
    const asked = `${path}${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ''}`
    const answer = await fetch(node.url + asked, { headers: { 'x-tenant-id': tenant } })
    const bytes = Buffer.from(await answer.arrayBuffer())
    expect(answer.status).toBe(200)
    expect(bytes.length).toBeLessThan(ANSWER_BYTES_MAX + FRAME_BYTES)
    const body = JSON.parse(bytes.toString())
    counts.push(body.results.length)
    cursor = body.cursor
  }
  return counts
}

const sum = (counts: readonly number[]) => counts.reduce((total, count) => total + count, 0)

async function fill(tenant: string, content: string, count: number, each: number) {
  for (let batch = 0; batch < count / each; batch++) {
    const resources = Array.from({ length: each }, (_, n) => ({ uri: `u:${batch}-${n}`, content }))
    expect((await node.request('POST', '/api/v1/resources', { tenant, body: { resources } })).status).toBe(201)
  }
}

describe('an answer', () => {
  it.each([
    ['a script of three bytes a character', 'han', '漢字 '.repeat(18_000), 15],
    ['text that JSON escapes', 'escaped', '漢字 \n"\\'.repeat(9000), 15],
  ])('carries no more than its bound of resources in %s', async (_, tenant, content, each) => {
    await fill(tenant, content, 45, each)
    for (const path of ['?limit=1000', `?limit=100&query=${encodeURIComponent('漢字')}`]) {
      const counts = await pages(tenant, `/api/v1/resources${path}`)
      expect([path, sum(counts), counts.length > 1]).toEqual([path, 45, true])
    }
  })

  it('carries no more than its bound of entities, edges and moments', async () => {
    const tenant = 'graph'
    const text = '漢'.repeat(20_000)
    const post = (path: string, body: object) => node.request('POST', path, { tenant, body })
    for (let batch = 0; batch < 4; batch++) {
      const ids = Array.from({ length: 30 }, (_, n) => `${batch}-${n}`)
      const entities = ids.map(id => ({ id, type: 't', properties: { text } }))
      expect((await post('/api/v1/entities', { entities })).status).toBeLessThan(300)
      const edges = ids.map(to => ({ type: 'to', to, properties: { text } }))
      expect((await node.request('PUT', '/api/v1/entities/hub', { tenant, body: { edges } })).status).toBeLessThan(300)
      const moments = ids.map(id => ({ id, type: 't', metadata: { text } }))
      const answer = await post('/api/v1/moments', { moments })
      expect([answer.status, answer.body]).toEqual([201, answer.body])
    }
    expect(sum(await pages(tenant, '/api/v1/entities?type=t&limit=1000'))).toBe(120)
    expect(sum(await pages(tenant, '/api/v1/moments?limit=1000'))).toBe(120)
    for (const path of ['hub', 'hub/traverse?depth=1&limit=1000']) {
      const answer = await fetch(`${node.url}/api/v1/entities/${path}`, { headers: { 'x-tenant-id': tenant } })
      const bytes = Buffer.from(await answer.arrayBuffer())
      expect(bytes.length).toBeLessThan(ANSWER_BYTES_MAX + FRAME_BYTES)
      expect(JSON.parse(bytes.toString())).toMatchObject(
        path === 'hub' ? { edges_truncated: true } : { truncated: true },
      )
    }
  })
})
