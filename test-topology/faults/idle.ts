import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import type { LocalCluster } from '../../src/cluster/cluster.ts'
import type { FaultWorld } from './world.ts'

/** What a cluster does when nobody asks anything of it. */
export interface Idle {
  /** Messages that the NATS servers took from their clients, a second. */
  readonly messages: number
  /** Share of one core that all nodes take together; 0 where /proc is missing. */
  readonly cpu: number
}

const MEASURED_MS = 3000
/** As Linux counts for programs, whatever it does inside. */
const TICKS_PER_SECOND = 100
/** After everything it may do so much more than before anything, and a little for chance. */
const TIMES_MAX = 3
const MESSAGES_MORE_MAX = 20

export async function measureIdle(world: FaultWorld): Promise<Idle> {
  const [messages, cpu] = [await natsMessages(world.cluster), cpuOf(world)]
  const startedAt = performance.now()
  await sleep(MEASURED_MS)
  const seconds = (performance.now() - startedAt) / 1000
  const perSecond = (value: number) => Math.round((value / seconds) * 1000) / 1000
  return { messages: perSecond((await natsMessages(world.cluster)) - messages), cpu: perSecond(cpuOf(world) - cpu) }
}

export function idleProblem(before: Idle, after: Idle): string | undefined {
  if (after.messages <= before.messages * TIMES_MAX + MESSAGES_MORE_MAX) return undefined
  return `idle, the cluster sends ${after.messages} messages a second to NATS; before the faults it was ${before.messages}`
}

/** What all servers have taken from clients that are connected now. */
export async function natsMessages(cluster: LocalCluster): Promise<number> {
  const all = await Promise.all(
    cluster.addresses.natsMonitors.map(async ({ at }) => {
      const { connections } = (await (await fetch(`http://${at}/connz`)).json()) as {
        connections: { in_msgs: number }[]
      }
      return connections.reduce((sum, { in_msgs }) => sum + in_msgs, 0)
    }),
  )
  return all.reduce((sum, messages) => sum + messages, 0)
}

function cpuOf(world: FaultWorld): number {
  let ticks = 0
  for (const name of world.nodes) {
    try {
      const fields = readFileSync(`/proc/${world.program(name).pid}/stat`, 'utf8')
        .split(') ')[1]!
        .split(' ')
      // utime and stime, the 14th and 15th field (proc(5)); the first two are cut off.
      ticks += Number(fields[11]) + Number(fields[12])
    } catch {
      // Not Linux.
    }
  }
  return ticks / TICKS_PER_SECOND
}
