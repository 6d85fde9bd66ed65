import { PercolateError } from '../base/errors.ts'
import { STAGED_BYTES_PER_BODY_BYTE } from '../base/limits.ts'
import type { Slicer } from '../base/slice.ts'
import { saidBy } from '../rem/late.ts'
import { mergeRecords } from '../rem/merge.ts'
import type { EntityCommand, MomentCommand } from '../rem/plan.ts'
import { EMPTY_RECORD, type LwwRecord, type Op, type RecordRef } from '../rem/record.ts'
import { stagedBytes } from '../storage/overlay.ts'
import { indexEntries } from './indexes.ts'
import type { EmbeddingSpec } from './state.ts'

/** What a key has beside the texts in it: its kind, the ends of the texts, a time or three characters of a name. */
const KEY_BYTES = 16
/** An id that is made of what a moment says. */
const DERIVED_ID_BYTES = 32

/** A command would take more memory than a batch may, alone. */
export class TooMuchAtOnce extends PercolateError {
  constructor(bytesMax: number) {
    super(
      'BODY_TOO_LARGE',
      `What the request would store takes more than ${bytesMax} bytes of memory to write, most of it index entries of long names, of many references or of text without spaces; send fewer items at once.`,
    )
  }
}

/** A command's memory while it is staged as bytes of text that would take as much: what decides whether its batch takes turns with others. */
export const asTextBytes = (staged: number): number => Math.ceil(staged / STAGED_BYTES_PER_BODY_BYTE)

/** Memory that the index entries of an entity and its edges take while they are staged, at most, about: nearly each character of a name begins an entry that has all of the name, and the id. */
export function stagedByEntity({ id, name, aliases = [], edges = [] }: EntityCommand): number {
  const idBytes = KEY_BYTES + Buffer.byteLength(id)
  let bytes = 0
  for (const text of [id, ...(name ? [name] : []), ...aliases])
    bytes += (text.length + 1) * stagedBytes(idBytes + Buffer.byteLength(text))
  for (const { type, to } of edges) bytes += stagedBytes(idBytes + Buffer.byteLength(type) + Buffer.byteLength(to))
  return bytes
}

/** As {@link stagedByEntity}, of a moment: each reference is an entry that has its id, too. */
export function stagedByMoment(command: MomentCommand): number {
  const idBytes = KEY_BYTES + (command.id === undefined ? DERIVED_ID_BYTES : Buffer.byteLength(command.id))
  let bytes = 0
  for (const targets of [command.resources ?? [], command.entities ?? []])
    for (const target of targets) bytes += stagedBytes(idBytes + Buffer.byteLength(target))
  return bytes
}

/** What a command is planned with. */
interface Planned {
  readonly read: (ref: RecordRef) => Promise<LwwRecord | undefined>
  readonly embedding: EmbeddingSpec | undefined
  readonly stagedBytesMax: number
}

/**
 * Refuses what takes too much memory by the index entries alone that it would add, counted one record after another: nothing is staged for it, and no tenant is made. For commands whose estimate
 * is above the bound; what they say may be there already. Throws {@link TooMuchAtOnce}.
 */
export async function assertIndexesFit(
  ops: readonly Op[],
  { read, embedding, stagedBytesMax }: Planned,
  slicer: Slicer,
): Promise<void> {
  let bytes = 0
  for (const { ref, record } of saidBy(ops)) {
    const before = await read(ref)
    const old = indexEntries(ref, before, embedding?.model)
    await slicer.pause()
    const fresh = indexEntries(ref, mergeRecords(before ?? EMPTY_RECORD, record), embedding?.model)
    for (const key of fresh.keys()) if (!old.has(key)) bytes += stagedBytes(key.length)
    if (bytes > stagedBytesMax) throw new TooMuchAtOnce(stagedBytesMax)
    await slicer.pause()
  }
}
