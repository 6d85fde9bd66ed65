import { readFileSync } from 'node:fs'
import { rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'
import { PACKAGE_FOLDER } from '../../src/base/version.ts'
import type { Program } from '../../src/cluster/processes.ts'

/** Where a process can be stopped: between what it has found out and what it does about it. */
export const stopPoints = [
  'a home has allowed a condition',
  'a write is planned, not yet on disk',
  'an entry goes to the stream',
  'the stream has acknowledged an entry',
  'a record goes to the directory',
  'the directory has taken a record',
  'a copy is about to be closed for a change of its files',
] as const
export type StopPoint = (typeof stopPoints)[number]

/** What a process is told, in a file. */
export interface Orders {
  readonly stopAt?: StopPoint
  /** Added to the wall clock from now on. */
  readonly clockOffsetMs: number
}

/** `NODE_OPTIONS` of a process that can be given orders. */
export function nodeOptionsFor(ordersPath: string): string {
  // Compiled, as the processes are, also when a test runs this from its source.
  const url = pathToFileURL(join(PACKAGE_FOLDER, 'dist', 'test-topology', 'faults', 'inside.js'))
  url.searchParams.set('orders', pathToFileURL(ordersPath).pathname)
  return `--import=${url.href}`
}

export async function giveOrders(program: Program, ordersPath: string, orders: Orders): Promise<void> {
  // As a whole: the process may read it at any moment.
  await writeFile(`${ordersPath}.new`, JSON.stringify(orders))
  await rename(`${ordersPath}.new`, ordersPath)
  await program.signal('SIGUSR2')
}

/** The state follows the name, which is in parentheses (proc(5)). A process that has ended is not stopped. */
function isStopped(pid: number): boolean {
  try {
    return /\) T/.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false
    throw error
  }
}

/** Stops a process where it has been told to; false when it did not come there in time. */
export async function hasStopped(program: Program, msMax: number): Promise<boolean> {
  for (const until = Date.now() + msMax; Date.now() < until; await sleep(10)) {
    const { pid } = program
    if (pid === undefined) return false
    if (isStopped(pid)) return true
  }
  return false
}
