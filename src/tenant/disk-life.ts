/** What a node notes on its disk of the life that its origins are named after. */
export interface DiskLife {
  /** Part of the node's origins; empty: the first one of this disk. */
  readonly id: string
  /** The start of the machine in which the node last ran; undefined: not known. */
  readonly boot: string | undefined
  /** The node ended in order, and everything that it wrote was the operating system's to keep. */
  readonly isClosed: boolean
}

/**
 * The life under which a node writes from now on. It goes on when what was last written is on the disk: the node ended in order, or only its process died. When the machine went down under it, or the disk came to another machine, a disk that had lied about what it synced would
 * lack entries that others had heard of (a feed's client, a reader with a bookmark, a message that was still on its way), and nobody could be asked for all of them. Their sequences must not be given out again: the node writes under a new origin.
 */
export function nextLife(noted: DiskLife | undefined, boot: string | undefined, newId: () => string): DiskLife {
  const goesOn = noted === undefined || noted.isClosed || (boot !== undefined && noted.boot === boot)
  return { id: goesOn ? (noted?.id ?? '') : newId(), boot, isClosed: false }
}

/** `node.disk`, or `node.disk.life`. */
export const originOfLife = (node: string, disk: string, life: string): string =>
  life === '' ? `${node}.${disk}` : `${node}.${disk}.${life}`
