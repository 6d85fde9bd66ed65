import { existsSync } from 'node:fs'
import { open, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { ask } from '../ask.ts'
import { HOT_ENTITIES } from './clients.ts'
import type { FaultContext } from './context.ts'
import { holdersOf } from './moving.ts'

/** A byte of each this many is another, in the part of a file that has the data; checksums are over blocks of 4 KiB. */
const EVERY_BYTES = 1024
const DATA_SHARE = 0.8
const WHOLE_MS_MAX = 10_000
const NOTICED_MS_MAX = 25_000
/** What was acknowledged this long before may not have been published when the file went bad. */
const UNPUBLISHED_MS = 2000

/** Flips bytes in the tables of one copy of a tenant, when another node has an equal one, and waits until the copy is right again. */
export async function corruptCopy(context: FaultContext, isRunning: boolean): Promise<string | undefined> {
  const { world, recorder, tenants } = context
  let tenant = recorder.oneOf(tenants)
  let whole = await wholeHolders(context, tenant)
  for (const until = Date.now() + WHOLE_MS_MAX; whole.length < 2 && Date.now() < until; await sleep(300)) {
    tenant = recorder.oneOf(tenants)
    whole = await wholeHolders(context, tenant)
  }
  if (whole.length < 2) return 'no tenant has two copies that are current now'
  const node = recorder.oneOf(whole)
  const program = world.program(node)
  const folder = join(world.folderOf(node), 'tenants', tenant)
  const fromMs = performance.now() - UNPUBLISHED_MS
  const loss = recorder.mayLose(tenant, node, fromMs)
  if ((await tablesOf(folder)).length === 0) {
    // What is only in memory and in the log goes into a table when the database is opened again.
    await program.stop()
    await program.start()
    await context.doors.nodes.get(node)![0]!.getEntity(tenant, HOT_ENTITIES[0], {})
  }
  if (!isRunning) await program.signal('SIGKILL')
  const flipped = await flip(await tablesOf(folder))
  if (!isRunning) await program.start()
  if (flipped === 0) {
    loss.untilMs = performance.now()
    return `the copy of ${tenant} on ${node} has no table`
  }
  // Somebody has to read it before it shows; then the copy is made anew, or another node has one.
  for (const until = Date.now() + NOTICED_MS_MAX; Date.now() < until; await sleep(500))
    if ((await isReadable(context, node, tenant)) && (await wholeHolders(context, tenant)).length >= 2) break
  loss.untilMs = performance.now()
  return undefined
}

/** Nodes whose copies call themselves current. */
async function wholeHolders(context: FaultContext, tenant: string): Promise<string[]> {
  const { holders = [] } = (await holdersOf(context, tenant)) ?? {}
  return holders.filter(({ copy, state }) => copy === 'current' && state === 'active').map(({ node }) => node)
}

async function isReadable({ world }: FaultContext, node: string, tenant: string): Promise<boolean> {
  const { url } = world.cluster.addresses.nodes.find(({ name }) => name === node)!
  for (const path of ['entities?limit=500', 'resources?limit=500']) {
    const answer = await ask(`${url}/api/v1/${path}`, 'GET', { 'x-tenant-id': tenant }).catch(() => undefined)
    if (answer?.status !== 200) return false
  }
  return true
}

async function tablesOf(folder: string): Promise<string[]> {
  if (!existsSync(folder)) return []
  return (await readdir(folder)).filter(name => name.endsWith('.sst')).map(name => join(folder, name))
}

async function flip(paths: readonly string[]): Promise<number> {
  let flipped = 0
  for (const path of paths) {
    // A compaction may have taken it away.
    const file = await open(path, 'r+').catch(() => undefined)
    if (!file) continue
    try {
      const { size } = await file.stat()
      const byte = Buffer.alloc(1)
      for (let at = 100; at < size * DATA_SHARE; at += EVERY_BYTES) {
        await file.read(byte, 0, 1, at)
        byte[0] = byte[0]! ^ 0x55
        await file.write(byte, 0, 1, at)
        flipped++
      }
    } finally {
      await file.close()
    }
  }
  return flipped
}
