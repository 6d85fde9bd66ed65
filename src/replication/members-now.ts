import type { Directory } from './directory.ts'
import type { Member } from './placement.ts'

/**
 * The members at one moment, arranged by what a controller asks for each of a hundred thousand placements. Good until the next await: what is decided on it is decided anew where it is written.
 */
export class MembersNow {
  readonly #directory: Directory
  readonly #knownForMs: number
  readonly #readyByTier = new Map<string, Member[]>()
  readonly #up = new Set<string>()
  readonly #awayMs = new Map<string, number>()

  /** `knownForMs`: how long this process has watched; it can't know of a longer silence. */
  constructor(directory: Directory, knownForMs: number) {
    this.#directory = directory
    this.#knownForMs = knownForMs
    for (const { member, isLive } of directory.members()) {
      if (!isLive || member.state !== 'ready') continue
      const ready = this.#readyByTier.get(member.tier)
      if (ready) ready.push(member)
      else this.#readyByTier.set(member.tier, [member])
      this.#up.add(`${member.tier} ${member.node}`)
    }
  }

  /** Live and ready members of a tier. */
  ready(tier: string): readonly Member[] {
    return this.#readyByTier.get(tier) ?? []
  }

  isUp(node: string, tier: string): boolean {
    return this.#up.has(`${tier} ${node}`)
  }

  /** How long a node has been silent, milliseconds; 0 while it lives. */
  awayMs(node: string): number {
    let awayMs = this.#awayMs.get(node)
    if (awayMs === undefined) {
      const directory = this.#directory
      const isLive = directory.member(node) !== undefined && directory.isLive(node)
      awayMs = isLive ? 0 : Math.min(this.#knownForMs, directory.silentMs(node))
      this.#awayMs.set(node, awayMs)
    }
    return awayMs
  }
}
