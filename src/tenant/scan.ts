import { decodeEntry, decodeRecord } from '../storage/codec.ts'
import { KeyReader, prefixes, prefixRange, space } from '../storage/keys.ts'
import type { Kv, KvRange, KvReader } from '../storage/kv.ts'
import { decodeBlock } from '../storage/postings.ts'

const ENTRY_SPACES: readonly number[] = [space.outbox, space.parked, space.quarantine]

/** Reads all of a database and decodes what can be; throws DATA_CORRUPT at the first thing that can't be. Says nothing about whether indexes agree with records: that is `checkTenant`. */
export async function scanDatabase(reader: Pick<KvReader, 'chunks'>): Promise<void> {
  for (const spaceByte of Object.values(space))
    for await (const chunk of reader.chunks({ ...prefixRange(prefixes.space(spaceByte)), verified: true }))
      for (const [key, value] of chunk) {
        if (spaceByte === space.record) decodeRecord(value)
        else if (ENTRY_SPACES.includes(spaceByte)) decodeEntry(value)
        else if (spaceByte === space.posting) for (const _ of decodeBlock(blockOf(key), value));
      }
}

function blockOf(key: Buffer): number {
  const reader = new KeyReader(key)
  reader.byte()
  reader.text()
  return reader.u32()
}

/** What a damaged database had of its own. */
export interface Salvage {
  /** Entries that no stream has acknowledged, in the order in which they were written. */
  readonly outbox: readonly Buffer[]
  /** Entries that were set aside in it. */
  readonly late: readonly Buffer[]
  /** Entries that waited in it for their clock. */
  readonly parked: readonly Buffer[]
  /** Whether all could be read to their end; else there may have been more. */
  readonly isWhole: boolean
}

/** Reads what can still be read of a database's own entries: from the front up to the damage, then from the back. */
export async function salvage(kv: Kv): Promise<Salvage> {
  const outbox = await readable(kv, prefixRange(prefixes.space(space.outbox)))
  const late = await readable(kv, prefixRange(prefixes.space(space.quarantine)))
  const parked = await readable(kv, prefixRange(prefixes.space(space.parked)))
  return {
    outbox: outbox.values,
    late: late.values,
    parked: parked.values,
    isWhole: outbox.isWhole && late.isWhole && parked.isWhole,
  }
}

async function readable(kv: Kv, range: KvRange): Promise<{ values: Buffer[]; isWhole: boolean }> {
  const found = new Map<string, Buffer>()
  const isWhole = await gather(kv, range, found)
  if (!isWhole) await gather(kv, { ...range, reverse: true }, found)
  const keys = [...found.keys()].sort()
  return { values: keys.map(key => found.get(key)!), isWhole }
}

async function gather(kv: Kv, range: KvRange, into: Map<string, Buffer>): Promise<boolean> {
  let isWhole = true
  try {
    for await (const chunk of kv.chunks({ ...range, verified: true }))
      for (const [key, value] of chunk) {
        const name = key.toString('latin1')
        if (into.has(name)) return false
        if (isEntry(value)) into.set(name, value)
        else isWhole = false
      }
    return isWhole
  } catch {
    return false
  }
}

function isEntry(value: Buffer): boolean {
  try {
    decodeEntry(value)
    return true
  } catch {
    return false
  }
}
