import { appendFile, rename, rm, writeFile } from 'node:fs/promises'

/** What is kept of a kind, in memory; its file has at most twice as many lines. */
export const RECORDED_MAX = 20_000

/** The latest items of a run, in memory and in a file of JSON lines that another process may read meanwhile. */
export class Recorded<T> {
  readonly items: T[] = []
  readonly #path: string
  readonly #max: number
  #lines = 0
  #writing: Promise<void>

  /** Begins anew: what the file had is gone. */
  constructor(path: string, max = RECORDED_MAX) {
    this.#path = path
    this.#max = max
    this.#writing = rm(path, { force: true })
  }

  add(item: T): void {
    this.items.push(item)
    if (this.items.length > this.#max) this.items.shift()
    this.#lines++
    const line = `${JSON.stringify(item)}\n`
    if (this.#lines <= 2 * this.#max) this.#write(() => appendFile(this.#path, line))
    else {
      this.#lines = this.items.length
      const text = this.items.map(kept => `${JSON.stringify(kept)}\n`).join('')
      this.#write(async () => {
        await writeFile(`${this.#path}.new`, text)
        await rename(`${this.#path}.new`, this.#path)
      })
    }
  }

  /** When everything so far is in the file. */
  written(): Promise<void> {
    return this.#writing
  }

  /** One after the other. A record that cannot be written, on a full disk, is no reason to stop what it records. */
  #write(work: () => Promise<void>): void {
    this.#writing = this.#writing.then(work).catch(() => {})
  }
}
