import { spawnSync } from 'node:child_process'

/** No machine has it: what is sent there is dropped without a word, as by a network that is cut. */
const NOBODY = '02:00:00:00:00:01'
const MARK = 'percolate'

function ip(...args: readonly string[]): void {
  const { status, stderr, error } = spawnSync('ip', args, { encoding: 'utf8' })
  if (status !== 0) throw new Error(`ip ${args.join(' ')}: ${error?.message ?? stderr.trim()}`)
}

/**
 * A network of its own for each of some processes, joined by a bridge (Linux, root). Unlike a proxy it cuts in the kernel: connections live on, what was under way arrives late, one direction can be cut
 * alone, and connecting to a peer that is away gets no answer.
 */
export class Namespaces {
  readonly #names: readonly string[]
  readonly #subnet: string
  /** The id of this process in all names, so that what a killed run left can be told. */
  readonly #id = process.pid.toString(36)

  private constructor(names: readonly string[]) {
    this.#names = names
    this.#subnet = `10.${200 + (process.pid % 50)}.${(process.pid >> 6) % 250}`
  }

  /** Gives the reason when this machine does not allow it. */
  static make(names: readonly string[]): Namespaces | { readonly reason: string } {
    const made = new Namespaces(names)
    try {
      removeLeftovers()
      ip('link', 'add', made.#bridge, 'type', 'bridge')
      ip('addr', 'add', `${made.host}/24`, 'dev', made.#bridge)
      ip('link', 'set', made.#bridge, 'up')
      for (const name of names) {
        const space = made.#space(name)
        ip('netns', 'add', space)
        ip('link', 'add', made.#link(name), 'type', 'veth', 'peer', 'name', 'eth0', 'netns', space)
        ip('link', 'set', made.#link(name), 'master', made.#bridge, 'up')
        ip('-n', space, 'addr', 'add', `${made.hostOf(name)}/24`, 'dev', 'eth0')
        ip('-n', space, 'link', 'set', 'eth0', 'up')
        ip('-n', space, 'link', 'set', 'lo', 'up')
      }
      return made
    } catch (error) {
      made.remove()
      return { reason: (error as Error).message }
    }
  }

  /** This process's own address in the network, and that of everything without a network of its own. */
  get host(): string {
    return `${this.#subnet}.1`
  }

  hostOf(name: string): string {
    const at = this.#names.indexOf(name)
    return at < 0 ? this.host : `${this.#subnet}.${10 + at}`
  }

  wrapperOf(name: string): readonly string[] {
    return this.#names.includes(name) ? ['ip', 'netns', 'exec', this.#space(name)] : []
  }

  /** Nothing passes to or from it. */
  isolate(name: string): void {
    ip('link', 'set', this.#link(name), 'down')
  }

  /** Nothing that `from` sends reaches any of `to` ('host': this machine); what those send arrives. */
  mute(from: string, to: readonly string[]): void {
    for (const other of to)
      ip(
        ...this.#in(from),
        'neigh',
        'replace',
        this.hostOf(other),
        'lladdr',
        NOBODY,
        'dev',
        this.#device(from),
        'nud',
        'permanent',
      )
  }

  /** Undoes {@link isolate} and {@link mute} everywhere. */
  heal(): void {
    for (const name of this.#names) ip('link', 'set', this.#link(name), 'up')
    for (const from of ['host', ...this.#names])
      for (const other of ['host', ...this.#names])
        if (other !== from)
          spawnSync('ip', [...this.#in(from), 'neigh', 'del', this.hostOf(other), 'dev', this.#device(from)])
  }

  remove(): void {
    for (const name of this.#names) spawnSync('ip', ['netns', 'del', this.#space(name)])
    spawnSync('ip', ['link', 'del', this.#bridge])
  }

  get #bridge(): string {
    return `pf${this.#id}br`
  }

  #space(name: string): string {
    return `${MARK}-${process.pid}-${name}`
  }

  #link(name: string): string {
    return `pf${this.#id}n${this.#names.indexOf(name)}`
  }

  #in(name: string): readonly string[] {
    return name === 'host' ? [] : ['-n', this.#space(name)]
  }

  #device(name: string): string {
    return name === 'host' ? this.#bridge : 'eth0'
  }
}

/** What runs left that were killed. */
function removeLeftovers(): void {
  const { stdout } = spawnSync('ip', ['netns', 'list'], { encoding: 'utf8' })
  for (const [space, pid] of (stdout ?? '').matchAll(new RegExp(`${MARK}-(\\d+)-\\S+`, 'g'))) {
    if (isAlive(Number(pid))) continue
    spawnSync('ip', ['netns', 'del', space])
    spawnSync('ip', ['link', 'del', `pf${Number(pid).toString(36)}br`])
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}
