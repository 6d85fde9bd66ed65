import Table from 'cli-table3'
import type { TopologyState } from './control.ts'

const REDRAW_MS = 1000

/** The state of a topology on a terminal, drawn over itself. */
export class LiveTable {
  #timer: NodeJS.Timeout | undefined
  #lines = 0

  get isOn(): boolean {
    return this.#timer !== undefined
  }

  start(state: () => Promise<TopologyState>): void {
    const draw = () =>
      state().then(
        current => this.#draw(current),
        () => {},
      )
    this.#timer = setInterval(() => void draw(), REDRAW_MS)
    void draw()
  }

  stop(): void {
    clearInterval(this.#timer)
    this.#timer = undefined
  }

  #draw({ sample, scalers, events, processes }: TopologyState): void {
    if (!sample || !this.isOn) return
    const table = new Table({
      head: ['', 'wanted', 'running', 'ready', 'asked for by'],
      style: { head: [], border: [] },
    })
    const asks = (name: string) => {
      const scaler = scalers.find(each => each.name === name)
      if (!scaler) return 'fixed'
      return (
        scaler.error ??
        Object.entries(scaler.values)
          .map(([what, value]) => `${value ?? '?'} ${what}`)
          .join(', ')
      )
    }
    table.push(['nodes', sample.nodes.wanted, sample.nodes.present, sample.nodes.ready, asks('percolate-node')])
    table.push([
      'workers',
      sample.workers.wanted,
      sample.workers.present,
      sample.workers.ready,
      asks('percolate-worker'),
    ])
    const zones = new Map<string, string[]>()
    for (const { name, zone, pid } of processes)
      if (zone !== undefined && pid !== undefined) zones.set(zone, [...(zones.get(zone) ?? []), name])
    const lines = [
      ...table.toString().split('\n'),
      ...[...zones].sort().map(([zone, names]) => `${zone}  ${names.join(' ')}`),
      ...events.map(({ atMs, text }) => `${new Date(atMs).toISOString().slice(11, 19)}  ${text}`),
    ]
    const width = process.stdout.columns ?? 100
    const up = this.#lines > 0 ? `\u001b[${this.#lines}A` : ''
    process.stdout.write(`${up}${lines.map(line => `\u001b[2K${line.slice(0, width)}`).join('\n')}\n\u001b[J`)
    this.#lines = lines.length
  }
}
