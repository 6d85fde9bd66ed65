import { packValue, unpackValue } from '../storage/codec.ts'
import { keys } from '../storage/keys.ts'
import type { Tenant } from '../tenant/tenant.ts'

/** Streams of a tenant that a copy remembers to have read; the oldest are forgotten. */
const STREAMS_MAX = 16

/**
 * What a copy has lived through: the streams (their incarnations, the last one last) that it has read, or that the complete copy had read from which it was made. When such a stream is lost, its word counts for what was published
 * there; that of a copy which was made since, on a disk that has nothing of before, does not.
 */
export async function readStreams(open: Tenant): Promise<readonly string[]> {
  const bytes = await open.get(keys.meta('streams'))
  return bytes ? (unpackValue(bytes) as string[]) : []
}

/** What it may have missed of a stream that goes on, because the one from which it was made had, it has not lived through. */
export async function addStreams(open: Tenant, ...streams: readonly string[]): Promise<void> {
  const known = await readStreams(open)
  const lost = await readLost(open)
  if (streams.some(stream => stream === lost && !known.includes(stream))) return
  if (streams.length === 0 || (known.at(-1) === streams.at(-1) && streams.every(stream => known.includes(stream))))
    return
  const all = [...known.filter(stream => !streams.includes(stream)), ...streams]
  await open.change(async staging => staging.put(keys.meta('streams'), packValue(all.slice(-STREAMS_MAX))))
}

/** The stream that was lost, or that had lost entries, before the copy had read all of it, and for which nobody has made up; empty when it is not known which; undefined: there is none. */
export async function readLost(open: Tenant): Promise<string | undefined> {
  return (await open.get(keys.meta('missed')))?.toString()
}

/** The first stays: whoever has lived through that one has lived through what came after. */
export async function noteLost(open: Tenant, stream: string): Promise<void> {
  if ((await readLost(open)) === undefined)
    await open.change(async staging => staging.put(keys.meta('missed'), Buffer.from(stream)))
}

/** Of a copy that was made from one that may have missed something: nothing that it has read since makes up for that. */
export async function noteInherited(open: Tenant, stream: string): Promise<void> {
  await open.change(async staging => {
    staging.put(keys.meta('missed'), Buffer.from(stream))
    staging.del(keys.meta('streams'))
  })
}
