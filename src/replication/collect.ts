import type { Clock } from '../clock/hlc.ts'
import { compareClocks } from '../clock/hlc.ts'
import { latestClock } from '../rem/floor.ts'
import type { RecordRef } from '../rem/record.ts'
import { decodeRecord } from '../storage/codec.ts'
import { KeyReader, parseRecordKey, prefixes, prefixRange, space } from '../storage/keys.ts'
import { collect as collectRange } from '../storage/kv.ts'
import type { Tenant } from '../tenant/tenant.ts'

/** Records that one batch of garbage collection changes. */
const BATCH_RECORDS = 200

/**
 * Takes out what lies settled below the tenant's floor: tombstones, and delete clocks of records that came back. The edges that such a delete
 * hides go first, or they would show again.
 */
export async function collectGarbage(tenant: Tenant): Promise<number> {
  const floor = tenant.floor?.clock
  // A floor may come before all that it covers has.
  if (!floor || tenant.isCollected || !tenant.covers(tenant.floor!.vector)) return 0
  const { arrivals } = tenant
  let collected = 0
  let batch: RecordRef[] = []
  const flush = async () => {
    const refs = batch
    batch = []
    collected += await tenant.change(async staging => {
      let count = 0
      for (const ref of refs) if (await staging.collect(ref, floor)) count++
      return count
    }, refs.length)
  }
  for await (const chunk of tenant.chunks(prefixRange(prefixes.space(space.record)))) {
    for (const [key, value] of chunk) {
      const record = decodeRecord(value)
      if (record.del === undefined || compareClocks(record.del, floor) > 0) continue
      const ref = parseRecordKey(key)
      if (ref.kind === 'entity') collected += await removeHiddenEdges(tenant, ref.key[0]!, record.del)
      batch.push(ref)
      if (batch.length >= BATCH_RECORDS) await flush()
    }
  }
  if (batch.length > 0) await flush()
  await tenant.noteCollected(floor, arrivals)
  return collected
}

/** Takes out the edges at an entity from before its delete, which has to go after them. */
export async function removeHiddenEdges(tenant: Tenant, id: string, del: Clock): Promise<number> {
  const refs: RecordRef[] = []
  for (const [key] of await collectRange(tenant, { ...prefixRange(prefixes.edgesFrom(id)), values: false }))
    refs.push(parseRecordKey(key))
  for (const [key] of await collectRange(tenant, { ...prefixRange(prefixes.edgesTo(id)), values: false })) {
    const reader = new KeyReader(key)
    const [to, type, from] = [reader.text(), reader.text(), reader.text()]
    refs.push({ kind: 'edge', key: [from, type, to] })
  }
  if (refs.length === 0) return 0
  return tenant.change(async staging => {
    let removed = 0
    for (const ref of refs) {
      const record = await staging.read(ref)
      const latest = record && latestClock(record)
      if (!latest || compareClocks(latest, del) > 0) continue
      await staging.remove(ref)
      removed++
    }
    return removed
  }, refs.length)
}
