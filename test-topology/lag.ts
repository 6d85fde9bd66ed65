import { setTimeout as sleep } from 'node:timers/promises'
import { ask } from './ask.ts'

/** How long a write may take to appear before it counts as missing. */
const APPEAR_MS_MAX = 10_000
const PAUSE_MS = 5

export interface Holder {
  readonly name: string
  readonly url: string
}

/** Writes on one holder and reads on another until each write is there, answered by that other itself. Milliseconds a write, and how many never came. */
export async function measureLag(
  tenant: string,
  writer: Holder,
  reader: Holder,
  writes: number,
): Promise<{ readonly lagsMs: readonly number[]; readonly missing: number }> {
  const headers = { 'x-tenant-id': tenant }
  const lagsMs: number[] = []
  let missing = 0
  for (let n = 0; n < writes; n++) {
    const written = await ask(`${writer.url}/api/v1/entities/lag`, 'PUT', headers, { properties: { n } })
    if (written.status !== 200) throw new Error(`a write was answered ${written.status} ${written.body?.code}`)
    const startedAt = performance.now()
    for (;;) {
      const read = await ask(`${reader.url}/api/v1/entities/lag`, 'GET', headers)
      const isOwn = read.headers['x-percolate-node'] === reader.name
      if (read.status === 200 && isOwn && read.body.properties?.n === n) break
      if (performance.now() - startedAt > APPEAR_MS_MAX) {
        missing++
        break
      }
    }
    lagsMs.push(performance.now() - startedAt)
    await sleep(PAUSE_MS)
  }
  return { lagsMs, missing }
}
