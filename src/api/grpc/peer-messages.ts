import { joinVectors, type VersionVector, vectorFromObject, vectorToObject } from '../../clock/vector.ts'
import type { GcFloor } from '../../rem/floor.ts'
import type { CopyState, CopyStatus, WholeFrom } from '../../replication/peer.ts'
import type { Message } from './messages.ts'

/** Messages of `percolate.v1.Peer` to and from what the handlers take. */
export const vectorMessage = (vector: VersionVector): Message => ({ sequences: vectorToObject(vector) })

export const vectorOf = (message: unknown): VersionVector =>
  vectorFromObject((message as Message | undefined)?.sequences ?? {}) ?? new Map()

/** A peer of the version before names origins, and no first entries of theirs: then all matter. */
export function wholeOf({ whole, whole_from }: Message): WholeFrom {
  const firsts = (whole_from as number[] | undefined) ?? []
  return new Map(((whole as unknown[] | undefined) ?? []).map((origin, n) => [String(origin), firsts[n] ?? 0]))
}

export const floorMessage = (floor: GcFloor | undefined): Message | undefined =>
  floor && { ...floor.clock, vector: vectorMessage(floor.vector) }

export function floorOf(message: unknown): GcFloor | undefined {
  if (!message) return undefined
  const { wall, counter, origin, vector } = message as Message
  return {
    clock: { wall: Number(wall ?? 0), counter: Number(counter ?? 0), origin: String(origin ?? '') },
    vector: vectorOf(vector),
  }
}

export const statusMessage = (status: CopyStatus | undefined): Message =>
  status
    ? {
        node: status.node,
        state: status.state,
        incarnation: status.incarnation,
        origin: status.origin,
        vector: vectorMessage(status.vector),
        ...(status.floor ? { floor: floorMessage(status.floor) } : {}),
        collected: status.collected,
        outbox_entries: status.outboxEntries,
        ...(status.streamSequence === undefined ? {} : { stream_sequence: status.streamSequence }),
        late: status.late,
        skipped: status.skipped,
        parked: status.parked.entries,
        parked_mark: status.parked.mark,
        known: vectorMessage(status.known),
        streams: status.streams,
        ...(status.lost === undefined ? {} : { lost: status.lost }),
      }
    : {}

export function statusOf(message: Message): CopyStatus | undefined {
  if (!message.node) return undefined
  return {
    node: String(message.node),
    state: message.state as CopyState,
    incarnation: String(message.incarnation),
    origin: String(message.origin),
    vector: vectorOf(message.vector),
    known: joinVectors(vectorOf(message.vector), vectorOf(message.known)),
    floor: floorOf(message.floor),
    collected: message.collected === true,
    outboxEntries: Number(message.outbox_entries ?? 0),
    streamSequence: message.stream_sequence === undefined ? undefined : Number(message.stream_sequence),
    late: Number(message.late ?? 0),
    skipped: Number(message.skipped ?? 0),
    parked: { entries: Number(message.parked ?? 0), mark: String(message.parked_mark ?? '') },
    streams: (message.streams as string[] | undefined) ?? [],
    lost: message.lost === undefined || message.lost === null ? undefined : String(message.lost),
  }
}
