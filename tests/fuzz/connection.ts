import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { Random } from '../sim/world.ts'
import { grpcBytes } from './grpc-bytes.ts'
import { httpBytes } from './http-bytes.ts'

/** The ports of a process that are fuzzed. */
export type Target = 'grpc' | 'http' | 'gateway'

const TARGETS: readonly Target[] = ['grpc', 'grpc', 'grpc', 'http', 'http', 'gateway']
/** How a client goes: it ends its side and waits for a while, resets, closes, or ends its side and resets after a moment. */
const ENDINGS = ['fin', 'reset', 'close', 'fin, then reset'] as const
const PIECES_MAX = 12
const PAUSE_MS_MAX = 8
/** Between the last piece and the end of a client, and of one that stays. */
const STAY_MS_MAX = 12
const LONG_STAY_MS_MAX = 1500
/** How long a client that has ended its side waits for the server. */
const HALF_OPEN_MS_MAX = 60

export interface Plan {
  readonly target: Target
  readonly pieces: readonly { readonly bytes: Buffer; readonly pauseMs: number }[]
  /** Whether, and from when on, it takes what the server says. */
  readonly readsAfterMs: number
  readonly stayMs: number
  readonly ending: (typeof ENDINGS)[number]
  readonly halfOpenMs: number
}

/** What the `n`th client of a seed does: equal numbers, equal plans. */
export function planOf(seed: number, n: number): Plan {
  const random = new Random(Math.imul(seed, 0x9e3779b1) ^ Math.imul(n + 1, 0x85ebca6b))
  const target = random.pick(TARGETS)
  const bytes = target === 'grpc' ? grpcBytes(random) : httpBytes(random)
  const cuts = random.chance(0.5)
    ? []
    : Array.from({ length: random.int(1, PIECES_MAX) }, () => random.int(0, bytes.length))
  const ends = [...cuts.sort((a, b) => a - b), bytes.length]
  const pieces = ends.map((end, i) => ({
    bytes: bytes.subarray(ends[i - 1] ?? 0, end),
    pauseMs: i === 0 || random.chance(0.5) ? 0 : random.int(0, PAUSE_MS_MAX),
  }))
  const readsAfterMs = random.chance(0.7) ? 0 : random.chance(0.5) ? random.int(0, 100) : Number.POSITIVE_INFINITY
  const stayMs = random.chance(0.4) ? 0 : random.int(0, random.chance(0.05) ? LONG_STAY_MS_MAX : STAY_MS_MAX)
  return {
    target,
    pieces,
    readsAfterMs,
    stayMs,
    ending: random.pick(ENDINGS),
    halfOpenMs: random.int(0, HALF_OPEN_MS_MAX),
  }
}

/** A client as planned, to its end; says whether the server took the connection. */
export async function runPlan(plan: Plan, port: number): Promise<boolean> {
  const socket = connect({ host: '127.0.0.1', port, allowHalfOpen: plan.halfOpenMs % 2 === 0 })
  const closed = new Promise<void>(resolve => socket.once('close', () => resolve()))
  socket.on('error', () => {})
  const connected = new Promise<void>(resolve => socket.once('connect', () => resolve()))
  await Promise.race([connected, closed])
  if (socket.destroyed) return false
  socket.setNoDelay(true)
  if (plan.readsAfterMs === 0) socket.resume()
  else {
    socket.pause()
    if (Number.isFinite(plan.readsAfterMs)) setTimeout(() => socket.resume(), plan.readsAfterMs).unref()
  }
  for (const { bytes, pauseMs } of plan.pieces) {
    if (pauseMs > 0) await sleep(pauseMs)
    if (socket.writable) socket.write(bytes)
  }
  if (plan.stayMs > 0) await Promise.race([sleep(plan.stayMs), closed])
  if (plan.ending.startsWith('fin')) {
    socket.end()
    await Promise.race([sleep(plan.halfOpenMs), closed])
  }
  // Node loses a socket that is reset while its own end is being sent: it stays open, and nobody is told (`uv_tcp_close_reset` refuses it).
  const isEnding = socket.writableEnded && !socket.writableFinished
  if (plan.ending.endsWith('reset') && !isEnding) socket.resetAndDestroy()
  else socket.destroy()
  await closed
  return true
}
