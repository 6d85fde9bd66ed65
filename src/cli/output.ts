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
