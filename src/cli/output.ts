import Table from 'cli-table3'

/** What a command prints for a person; programs ask for `--json`. */
export function printJson(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value, undefined, 2)}\n`)
}

export function printTable(head: readonly string[], rows: readonly (readonly (string | number)[])[]): void {
  const table = new Table({ head: [...head], style: { head: [], border: [], compact: true }, chars: BORDERLESS })
  for (const row of rows) table.push(row.map(cell => String(cell)))
  process.stdout.write(`${table.toString()}\n`)
}

export const say = (text = ''): void => {
  process.stdout.write(`${text}\n`)
}

/** Ends the command with one clear sentence on standard error. */
export function fail(message: string, exitCode = 1): never {
  process.stderr.write(`percolate: ${message}\n`)
  process.exit(exitCode)
}

const BORDERLESS = {
  top: '',
  'top-mid': '',
  'top-left': '',
  'top-right': '',
  bottom: '',
  'bottom-mid': '',
  'bottom-left': '',
  'bottom-right': '',
  left: '',
  'left-mid': '',
  mid: '',
  'mid-mid': '',
  right: '',
  'right-mid': '',
  middle: '  ',
}

/** One line, cut to a width, without control characters that could drive a terminal. */
export function oneLine(text: string, width: number): string {
  const clean = text
    .replace(/\s+/g, ' ')
    .replace(/[\u0000-\u001f\u007f-\u009f]/g, '')
    .trim()
  return clean.length <= width ? clean : `${clean.slice(0, width - 1)}…`
}

/** A snippet's marks as bold on a terminal. */
export function highlight(snippet: string): string {
  const [on, off] = process.stdout.isTTY ? ['\u001b[1m', '\u001b[22m'] : ['', '']
  return snippet
    .replaceAll('<mark>', on)
    .replaceAll('</mark>', off)
    .replace(
      /&(amp|lt|gt|quot|#39);/g,
      (_, name: string) => ({ amp: '&', lt: '<', gt: '>', quot: '"', '#39': "'" })[name]!,
    )
}

/** A progress bar on a terminal, nothing elsewhere: logs and pipes stay clean. */
export class Progress {
  readonly #total: number
  #done = 0

  constructor(total: number) {
    this.#total = total
  }

  update(done: number, label: string): void {
    this.#done = done
    if (!process.stderr.isTTY) return
    const width = 30
    const filled = Math.round((width * this.#done) / Math.max(1, this.#total))
    process.stderr.write(
      `\r\u001b[K[${'█'.repeat(filled)}${' '.repeat(width - filled)}] ${this.#done}/${this.#total} ${oneLine(label, 50)}`,
    )
  }

  end(): void {
    if (process.stderr.isTTY) process.stderr.write('\r\u001b[K')
  }
}

const LEVELS: Readonly<Record<number, string>> = {
  10: 'trace',
  20: 'debug',
  30: 'info',
  40: 'warning',
  50: 'error',
  60: 'fatal',
}
const UNSHOWN = new Set(['level', 'time', 'role', 'pid', 'part', 'msg', 'err'])

/** Log lines for a person on standard error: time, level, what happened, and the fields that say to what. */
export function readableLog(write = (text: string) => void process.stderr.write(text)): { write(line: string): void } {
  return {
    write: line => {
      let entry: Record<string, unknown>
      try {
        entry = JSON.parse(line) as Record<string, unknown>
      } catch {
        return write(line)
      }
      const fields = Object.entries(entry)
        .filter(([name]) => !UNSHOWN.has(name))
        .map(([name, value]) => `${name}=${typeof value === 'string' ? value : JSON.stringify(value)}`)
      const cause = (entry.err as { stack?: string } | undefined)?.stack
      const time = String(entry.time).slice(11, 19)
      const text = [time, LEVELS[Number(entry.level)] ?? '', entry.part ?? '', entry.msg ?? '', ...fields]
      write(`${oneLine(text.filter(Boolean).join('  '), 2000)}\n${cause ? `${cause}\n` : ''}`)
    },
  }
}

/** How wide a remark may be: a terminal's line is short, a pipe takes everything. */
export const remarkWidth = (): number => (process.stdout.isTTY ? 100 : Number.POSITIVE_INFINITY)
