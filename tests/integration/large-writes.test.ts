import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { eventually, remove, startTestNode, type TestNode, within } from '../support/running.ts'

/** Large batches of many tenants at a real node: what becomes of those that nobody waits for any more. */

const TENANTS = ['a', 'b', 'c', 'd', 'e', 'f']

/** Characters of a script without spaces: each makes a term of its own, so that making the batch takes long beside everything else here. */
const unspaced = (characters: number): string =>
  Array.from({ length: characters }, () => String.fromCharCode(0x4e00 + Math.floor(Math.random() * 20_000))).join('')
const batch = () => ({ resources: Array.from({ length: 4 }, (_, n) => ({ uri: `u:${n}`, content: unspaced(30_000) })) })

/** Letters of which nearly each three are others. */
const letters = (count: number): string =>
  Array.from({ length: count }, () => String.fromCharCode(97 + Math.floor(Math.random() * 26))).join('')
/** An entity whose names are some fifty megabytes of index entries. */
const named = () => ({ id: letters(512), aliases: Array.from({ length: 8 }, () => letters(1024)) })

const gauge = async (node: TestNode, name: string): Promise<number> => {
  const text = await (await fetch(`${node.url}/metrics`)).text()
  return Number(new RegExp(`^${name}(?:{[^}]*})? (\\S+)$`, 'm').exec(text)?.[1])
}
const waiting = (node: TestNode) => gauge(node, 'percolate_staging_waiting')

/** Sends a batch of each tenant, and comes back when one is being made and the others wait. */
async function crowd(node: TestNode, signal?: AbortSignal) {
  const answers = TENANTS.map(tenant =>
    fetch(`${node.url}/api/v1/resources`, {
      method: 'POST',
      headers: { 'x-tenant-id': tenant, 'content-type': 'application/json' },
      body: JSON.stringify(batch()),
      ...(signal ? { signal } : {}),
    }).then(
      async response => ({ status: response.status, code: ((await response.json()) as { code?: string }).code }),
      () => ({ status: 0, code: 'gone' }),
    ),
  )
  await eventually('the batches wait', async () => (await waiting(node)) >= 3)
  return answers
}

/** How many resources each tenant has. */
const stored = (node: TestNode): Promise<number[]> =>
  Promise.all(
    TENANTS.map(async tenant => {
      const { status, body } = await node.request('GET', '/api/v1/resources?limit=10', { tenant })
      expect(status).toBe(200)
      return body.results.length
    }),
  )

const env = { PERCOLATE_STAGED_TEXT_BYTES_MAX: String(256 * 1024) }

describe('large batches that wait for each other', () => {
  it('are given up when their clients go', async () => {
    const node = await startTestNode({ env })
    try {
      const gone = new AbortController()
      const answers = await crowd(node, gone.signal)
      gone.abort()
      await within('the requests end', Promise.all(answers))
      await eventually('nothing is under way', async () => (await gauge(node, 'percolate_pool_leases')) === 0)
      const counts = await stored(node)
      expect(counts.every(count => count === 0 || count === 4)).toBe(true)
      expect(counts.filter(count => count > 0).length).toBeLessThanOrEqual(3)
      // They were the first writes of their tenants: of what was given up in the line there is no tenant either.
      const folders = await readdir(join(node.folder, 'tenants'))
      expect(folders.length).toBeLessThanOrEqual(3)
    } finally {
      await node.stop()
      await remove(node.folder)
    }
  })

  it('are refused before they are read when the bodies that wait are too many, and small requests go on', async () => {
    const node = await startTestNode({ env: { ...env, PERCOLATE_HELD_BODY_BYTES_MAX: '1000000' } })
    try {
      const gone = new AbortController()
      const send = (tenant: string) =>
        fetch(`${node.url}/api/v1/resources`, {
          method: 'POST',
          headers: { 'x-tenant-id': tenant, 'content-type': 'application/json' },
          body: JSON.stringify(batch()),
          signal: gone.signal,
        })
      const held = ['a', 'b'].map(tenant => send(tenant).catch(() => {}))
      await eventually('bodies are held', async () => (await gauge(node, 'percolate_held_body_bytes')) > 700_000)
      const refused = await send('c')
      expect([refused.status, ((await refused.json()) as { code: string }).code]).toEqual([503, 'TOO_BUSY'])
      expect(await gauge(node, 'percolate_held_bodies_refused_total')).toBe(1)
      expect((await node.request('POST', '/api/v1/resources', { body: { content: 'few words' } })).status).toBe(201)
      const broken = await node.request('POST', '/api/v1/resources', { body: '{"content":' })
      expect(broken.status).toBe(400)
      gone.abort()
      await Promise.all(held)
      await eventually('none is held', async () => (await gauge(node, 'percolate_held_body_bytes')) === 0)
    } finally {
      await node.stop()
      await remove(node.folder)
    }
  })

  it('are refused by a node that stops, when its time for requests is over', async () => {
    const node = await startTestNode({ env: { ...env, PERCOLATE_DRAIN_MS: '200' } })
    const answers = await crowd(node)
    await within('the node stops', node.stop())
    const codes = await Promise.all(answers)
    expect(codes.filter(({ code }) => code === 'SHUTTING_DOWN').length).toBeGreaterThanOrEqual(3)
    const again = await startTestNode({ folder: node.folder })
    try {
      // What was refused is not there, what was acknowledged is; of one that was cut off either may be true.
      for (const [n, count] of (await stored(again)).entries()) {
        const { status, code } = codes[n]!
        expect(status === 201 ? [4] : code === 'gone' ? [0, 4] : [0]).toContain(count)
      }
    } finally {
      await again.stop()
      await remove(node.folder)
    }
  })

  it('take turns by their index entries, too: of names, which have little text', async () => {
    const node = await startTestNode({ env })
    try {
      const gone = new AbortController()
      const answers = TENANTS.map(tenant =>
        fetch(`${node.url}/api/v1/entities`, {
          method: 'POST',
          headers: { 'x-tenant-id': tenant, 'content-type': 'application/json' },
          body: JSON.stringify({ entities: Array.from({ length: 3 }, named) }),
          signal: gone.signal,
        }).catch(() => {}),
      )
      await eventually('the batches wait', async () => (await waiting(node)) >= 3)
      gone.abort()
      await within('the requests end', Promise.all(answers))
      await eventually('nothing is under way', async () => (await gauge(node, 'percolate_pool_leases')) === 0)
    } finally {
      await node.stop()
      await remove(node.folder)
    }
  })

  it('leave no tenant when their index entries alone are too much', async () => {
    const node = await startTestNode({ env: { PERCOLATE_BODY_BYTES_MAX: '1000000' } })
    try {
      const moments = Array.from({ length: 40 }, (_, n) => ({
        id: letters(512),
        time: n,
        entities: Array.from({ length: 1000 }, (_, m) => `e${m}`),
      }))
      for (const [path, body] of [
        ['/api/v1/entities', { entities: Array.from({ length: 3 }, named) }],
        ['/api/v1/moments', { moments }],
      ] as const) {
        const refused = await node.request('POST', path, { tenant: 'new', body })
        expect([refused.status, refused.body.code]).toEqual([413, 'BODY_TOO_LARGE'])
        expect(refused.body.detail).toMatch(/takes more than \d+ bytes of memory to write/)
      }
      expect(await readdir(join(node.folder, 'tenants'))).toEqual([])
      const few = await node.request('POST', '/api/v1/moments', {
        tenant: 'new',
        body: { moments: moments.slice(0, 9) },
      })
      expect(few.status).toBe(201)
    } finally {
      await node.stop()
      await remove(node.folder)
    }
  })
})
