import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { PercolateClient } from '../../client/client.ts'
import { parseTenantId } from '../../src/base/ids.ts'
import { remove, startTestNode, type TestNode } from '../support/running.ts'

/** A retraction takes back what its clock alone has made; what stood before is left as it is, and named. */

let node: TestNode
let client: PercolateClient
beforeAll(async () => {
  node = await startTestNode()
  client = new PercolateClient({ url: node.url, tenant: parseTenantId('imports') })
})
afterAll(async () => {
  await node.stop()
  await remove(node.folder)
})

const clockOf = (wallMs: number) => `${wallMs.toString(16).padStart(12, '0')}-00000000-import`
const idsOf = async () => ({
  entities: (await client.findEntities()).results.map(({ id }) => id).sort(),
  resources: (await client.listResources()).results.map(({ content }) => content).sort(),
  moments: (await client.listMoments()).results.map(({ id }) => id).sort(),
})

describe('a retraction', () => {
  it('leaves what was there before the import, whether that wrote to it or not', async () => {
    const importedAt = Date.now() - 10_000
    const asOf = clockOf(importedAt)
    const before = { asOf: clockOf(importedAt - 1000) }
    const moment = (id: string) => ({ id, time: '2026-01-01T00:00:00Z', content: id })
    await client.putEntities([{ id: 'written', properties: { mine: 1 } }, { id: 'untouched' }], before)
    const mine = [
      { content: 'written', category: 'mine' },
      { content: 'untouched', category: 'mine' },
    ]
    const { ids } = await client.putResources(mine, before)
    await client.putMoments([{ ...moment('written'), type: 'mine' }, moment('untouched')], before)
    // The import.
    await client.putEntities([{ id: 'written', properties: { theirs: 1 } }, { id: 'imported' }], { asOf })
    const imported = await client.putResources([{ content: 'written' }, { content: 'imported' }], { asOf })
    await client.putMoments([moment('written'), moment('imported')], { asOf })
    const records = {
      entities: ['written', 'untouched', 'imported', 'nowhere'],
      resources: [...ids, imported.ids[1]!],
      moments: ['written', 'untouched', 'imported'],
    }
    const answer = await client.retract(records, { asOf })
    expect(answer.retracted).toBe(4)
    expect(answer.kept).toEqual([
      ...ids.map(id => ({ kind: 'resource', id })),
      { kind: 'entity', id: 'written' },
      { kind: 'entity', id: 'untouched' },
      { kind: 'moment', id: 'written' },
      { kind: 'moment', id: 'untouched' },
    ])
    expect(await idsOf()).toEqual({
      entities: ['untouched', 'written'],
      resources: ['untouched', 'written'],
      moments: ['untouched', 'written'],
    })
    expect((await client.getEntity('written')).properties).toEqual({ mine: 1, theirs: 1 })
    // One that is named again is one.
    expect(await client.retract({ entities: ['untouched', 'untouched'] }, { asOf })).toEqual({
      retracted: 0,
      kept: [{ kind: 'entity', id: 'untouched' }],
    })
    // What was not there is still spared what arrives of the import.
    await client.putEntities([{ id: 'nowhere' }], { asOf })
    expect((await idsOf()).entities).toEqual(['untouched', 'written'])
  })

  it('does not name what is gone, and takes what later writes of others left of it', async () => {
    const importedAt = Date.now() - 10_000
    const asOf = clockOf(importedAt)
    await client.putEntities([{ id: 'gone', properties: { n: 1 } }], { asOf: clockOf(importedAt - 2000) })
    await client.request('DELETE', '/api/v1/entities/gone', { asOf: clockOf(importedAt - 1000) })
    await client.putEntities([{ id: 'gone' }, { id: 'shared', properties: { theirs: 1 } }], { asOf })
    await client.putEntities([{ id: 'shared', properties: { later: 1 } }])
    expect(await client.retract({ entities: ['gone', 'shared', 'gone'] }, { asOf })).toEqual({ retracted: 2 })
    expect((await client.getEntity('shared')).properties).toEqual({ later: 1 })
    expect((await idsOf()).entities).not.toContain('gone')
  })
})
