import { rm, statfs, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { addResource } from './clients.ts'
import type { FaultContext } from './context.ts'
import { corruptCopy } from './corruption.ts'
import { moveAway } from './moving.ts'
import { stopPoints } from './stop-points.ts'
import { type FaultWorld, LEASE_MS } from './world.ts'

/** Resolves with a text when it could not be inflicted: why. */
type Inflict = (context: FaultContext) => Promise<unknown>

/** What a filled disk has left: too little for anything. */
const DISK_LEFT_BYTES = 4 * 1024 * 1024
/** After all servers of NATS were away a watch may say nothing for ten seconds while all else works. */
const DEAF_MS = 10_000
/** What a stream has had for so long, other holders have read; they read on as it comes. */
const UNREAD_MS = 2000
const SLOW_WRITES = 6
/** Some points are passed seldom. */
const POINTS_TRIED = 3
/** The provider's own limit, and some for the rest of a drain. */
const DRAIN_MS_MAX = 40_000

const some = ({ recorder, world }: FaultContext): string => recorder.oneOf(world.nodes)
const between = ({ recorder }: FaultContext, from: number, to: number): number => from + recorder.random() * (to - from)

const kill =
  (names: (context: FaultContext) => string): Inflict =>
  async context => {
    const program = context.world.program(names(context))
    await program.signal('SIGKILL')
    await sleep(between(context, 500, 2500))
    await program.start()
  }

const pause =
  (names: (context: FaultContext) => string, fromMs: number, toMs: number): Inflict =>
  async context => {
    const program = context.world.program(names(context))
    await program.signal('SIGSTOP')
    await sleep(between(context, fromMs, toMs))
    await program.signal('SIGCONT')
  }

const allServers =
  (down: 'SIGKILL' | 'SIGTERM'): Inflict =>
  async context => {
    const programs = context.world.servers.map(name => context.world.program(name))
    await Promise.all(programs.map(program => (down === 'SIGKILL' ? program.signal(down) : program.stop())))
    await sleep(between(context, 2000, 4000))
    await Promise.all(programs.map(program => program.start()))
    await sleep(DEAF_MS)
  }

/** All of them at once, while the nodes run: the directory and every stream begin anew. */
const loseStores: Inflict = async context => {
  const { world, recorder } = context
  const programs = world.servers.map(name => world.program(name))
  const atMs = performance.now()
  recorder.forgettings.push({ fromMs: atMs - UNREAD_MS, untilMs: atMs + LEASE_MS })
  await Promise.all(programs.map(program => program.signal('SIGKILL')))
  await Promise.all(world.servers.map(name => world.loseStore(name)))
  await sleep(between(context, 500, 2500))
  await Promise.all(programs.map(program => program.start()))
  await sleep(DEAF_MS)
}

const wrongClock =
  (offsetMs: number): Inflict =>
  async context => {
    const program = context.world.program(some(context))
    const sign = context.recorder.random() < 0.5 ? 1 : -1
    await program.signal('SIGKILL')
    program.launch({ PERCOLATE_CLOCK_OFFSET_MS: String(sign * offsetMs) })
    await program.whenReady()
    await sleep(1500)
    await program.signal('SIGKILL')
    await program.start()
  }

/** Forward, then back past where it was, then right: within what is admitted, and beyond. */
const jumpingClock: Inflict = async context => {
  const node = some(context)
  for (const offsetMs of [4000, 60_000, -4000, 0]) {
    await context.world.jumpClock(node, offsetMs)
    await sleep(1200)
  }
}

const drain =
  (isHanging: boolean): Inflict =>
  async context => {
    const { world, recorder, doors, tenants } = context
    const node = some(context)
    world.provider.delay(isHanging ? 'never' : 1500)
    const writes = Array.from({ length: SLOW_WRITES }, (_, n) =>
      addResource(
        context,
        recorder.oneOf(doors.nodes.get(node)!),
        recorder.oneOf(tenants),
        `drained ${node} ${n} ${recorder.random()}`,
      ),
    )
    await sleep(300)
    const startedAt = performance.now()
    const stopped = world.program(node).stop()
    // One that hangs goes on hanging for as long as the node takes.
    if (!isHanging) {
      await sleep(between(context, 1000, 3000))
      world.provider.release()
    }
    await stopped
    const tookMs = performance.now() - startedAt
    world.provider.release()
    await Promise.all(writes)
    await world.program(node).start()
    return tookMs > DRAIN_MS_MAX ? `the drain took ${Math.round(tookMs / 1000)} s` : undefined
  }

const stopAtPoint: Inflict = async context => {
  const { world, recorder } = context
  const node = some(context)
  for (let attempt = 0; attempt < POINTS_TRIED; attempt++) {
    if (!(await world.stopAt(node, recorder.oneOf(stopPoints)))) continue
    await sleep(between(context, LEASE_MS * 1.2, LEASE_MS * 3))
    await world.program(node).signal('SIGCONT')
    return undefined
  }
  return `${node} did not come to where it was to stop`
}

const inNetwork =
  (inflict: (context: FaultContext & { readonly network: NonNullable<FaultWorld['namespaces']> }) => void): Inflict =>
  async context => {
    const network = context.world.namespaces!
    inflict({ ...context, network })
    await sleep(between(context, 1000, 4000))
    network.heal()
  }

/** Every kind of fault, in the order in which a run goes through them. */
export const inflictions = {
  'kill node': kill(some),
  'kill nats-server': kill(({ recorder, world }) => recorder.oneOf(world.servers)),
  'kill all nats-servers': allServers('SIGKILL'),
  'stop node': pause(some, 500, 3500),
  'stop node for two leases': pause(some, LEASE_MS * 1.5, LEASE_MS * 3),
  'stop nats-server': pause(({ recorder, world }) => recorder.oneOf(world.servers), 500, 3500),
  'stop node at a chosen point': stopAtPoint,
  'restart all nats-servers': allServers('SIGTERM'),
  'all nats-servers lose their stores': loseStores,
  'partition node from NATS': async context => {
    const node = some(context)
    await context.world.cutOff(name => name.startsWith(`${node} `), between(context, 1000, 4000))
  },
  'cut off node from its peers': async context => {
    const node = some(context)
    await context.world.cutOff(
      name => name.startsWith('peers ') && name.endsWith(` ${node}`),
      between(context, 1000, 4000),
    )
  },
  'cut off nodes from one another': ({ world, ...context }) =>
    world.cutOff(name => name.startsWith('peers '), between({ world, ...context }, 1000, 4000)),
  'isolate node in the kernel': inNetwork(context => context.network.isolate(some(context))),
  'mute node in the kernel': inNetwork(context => context.network.mute(some(context), ['host'])),
  'isolate nats-server in the kernel': inNetwork(({ network, recorder, world }) =>
    network.isolate(recorder.oneOf(world.servers)),
  ),
  'cut off nats-server from the others': inNetwork(({ network, recorder, world }) => {
    const server = recorder.oneOf(world.servers)
    const others = world.servers.filter(name => name !== server)
    network.mute(server, others)
    for (const other of others) network.mute(other, [server])
  }),
  'move tenant with slow writes under way': moveAway,
  'drain node with slow writes under way': drain(false),
  'drain node while the provider hangs': drain(true),
  'pause leading controller': async context => {
    const { world } = context
    // Which one leads shows only later; one after the other, each for longer than its lease.
    for (const name of world.controllers) await pause(() => name, LEASE_MS * 1.5, LEASE_MS * 3)(context)
  },
  'corrupt a copy of a running node': context => corruptCopy(context, true),
  'corrupt a copy of a stopped node': context => corruptCopy(context, false),
  'clock of a running node jumps': jumpingClock,
  'fill disk': async context => {
    const folder = context.recorder.oneOf(context.world.disks)
    const { bavail, bsize } = await statfs(folder)
    const ballast = join(folder, 'ballast')
    await writeFile(ballast, Buffer.alloc(Math.max(0, bavail * bsize - DISK_LEFT_BYTES)))
    await sleep(between(context, 2000, 4000))
    await rm(ballast)
  },
  'restart node with a clock 3 s off': wrongClock(3000),
  'restart node with a clock 5 min off': wrongClock(300_000),
} satisfies Record<string, Inflict>

export type FaultKind = keyof typeof inflictions
export const faultKinds = Object.keys(inflictions) as FaultKind[]
/** Those that damage a database. */
export const corruptions = ['corrupt a copy of a running node', 'corrupt a copy of a stopped node'] as const

/** Why a kind can't be inflicted on this machine; undefined when it can. */
export function obstacle(kind: FaultKind, world: FaultWorld): string | undefined {
  if (kind === 'fill disk' && world.disks.length === 0) return 'the right to mount disks is missing'
  if (/in the kernel|from the others/.test(kind) && !world.namespaces) return 'there are no network namespaces'
  if (kind === 'stop node at a chosen point' && process.platform !== 'linux') return 'this is not Linux'
  return undefined
}
