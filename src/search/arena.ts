import { Slicer } from '../base/slice.ts'
import { kernelBase64 } from './kernel.gen.ts'

const LANES = 16
const PAGE_BYTES = 65_536
/** Rows that one call of the kernel scores; about a millisecond of work at 384 dimensions. */
const ROWS_A_CALL = 16_384

interface Kernel {
  scan(query: number, row: number, out: number, rows: number, dimensions: number): void
}

const kernel = new WebAssembly.Module(Buffer.from(kernelBase64, 'base64'))

/** Scores of one scan: `scores[row]`, a cosine in -1 to 1, belongs to the document `docNos[row]`. */
export interface Scan {
  readonly rows: number
  readonly scores: Float32Array
  readonly docNos: Uint32Array
}

/**
 * Unit vectors of one tenant and model side by side in WebAssembly memory, scanned exactly: cosine similarity as an inner product.
 * Memory: query, then scores, then rows; grows by doubling, and goes when the arena does.
 */
export class VectorArena {
  readonly dimensions: number
  readonly #stride: number
  readonly #memory: WebAssembly.Memory
  readonly #kernel: Kernel
  readonly #rowOf = new Map<number, number>()
  #docNos = new Uint32Array(1024)
  #rows = 0
  #capacity = 0
  /** Removals so far. */
  #moves = 0

  /** `dimensions`: components of a vector, 1 to 4096. */
  constructor(dimensions: number) {
    this.dimensions = dimensions
    this.#stride = Math.ceil(dimensions / LANES) * LANES * 4
    this.#memory = new WebAssembly.Memory({ initial: 1, maximum: 65_536 })
    this.#kernel = new WebAssembly.Instance(kernel, { env: { memory: this.#memory } }).exports as unknown as Kernel
  }

  get rows(): number {
    return this.#rows
  }

  get bytes(): number {
    return this.#memory.buffer.byteLength + this.#docNos.byteLength + this.#rowOf.size * 32
  }

  /** Stores a vector, scaled to length 1, in place of the document's earlier one. */
  set(docNo: number, vector: Float32Array): void {
    let row = this.#rowOf.get(docNo)
    if (row === undefined) {
      row = this.#rows
      this.#reserve(row + 1)
      this.#rowOf.set(docNo, row)
      this.#docNos[row] = docNo
      this.#rows++
    }
    this.#write(this.#rowsAt + row * this.#stride, vector)
  }

  /** The last row takes the removed one's place. */
  remove(docNo: number): void {
    const row = this.#rowOf.get(docNo)
    if (row === undefined) return
    const last = this.#rows - 1
    if (row !== last) {
      const bytes = new Uint8Array(this.#memory.buffer)
      const from = this.#rowsAt + last * this.#stride
      bytes.copyWithin(this.#rowsAt + row * this.#stride, from, from + this.#stride)
      const moved = this.#docNos[last]!
      this.#docNos[row] = moved
      this.#rowOf.set(moved, row)
    }
    this.#rowOf.delete(docNo)
    this.#rows--
    this.#moves++
  }

  /**
   * Scores every row. Large arenas yield to the event loop between calls of the kernel; a removal that moved a row meanwhile
   * starts the scan over, without yielding the second time.
   */
  async scan(query: Float32Array): Promise<Scan> {
    const slicer = new Slicer()
    const moves = this.#moves
    const scores = new Float32Array(this.#rows)
    for (let start = 0; start < scores.length; start += ROWS_A_CALL) {
      this.#score(query, start, scores)
      if (slicer.due && start + ROWS_A_CALL < scores.length) {
        await slicer.pause()
        if (this.#moves !== moves) return this.#scanAtOnce(query)
      }
    }
    return { rows: scores.length, scores, docNos: this.#docNos.slice(0, scores.length) }
  }

  #scanAtOnce(query: Float32Array): Scan {
    const scores = new Float32Array(this.#rows)
    for (let start = 0; start < scores.length; start += ROWS_A_CALL) this.#score(query, start, scores)
    return { rows: scores.length, scores, docNos: this.#docNos.slice(0, scores.length) }
  }

  #score(query: Float32Array, start: number, scores: Float32Array): void {
    const count = Math.min(ROWS_A_CALL, scores.length - start)
    this.#write(0, query)
    this.#kernel.scan(0, this.#rowsAt + start * this.#stride, this.#scoresAt, count, this.#stride / 4)
    scores.set(new Float32Array(this.#memory.buffer, this.#scoresAt, count), start)
  }

  get #scoresAt(): number {
    return this.#stride
  }

  get #rowsAt(): number {
    return this.#stride + ROWS_A_CALL * 4
  }

  #reserve(rows: number): void {
    if (rows > this.#capacity) {
      const capacity = Math.max(rows, Math.ceil(this.#capacity * 1.5), 64)
      const needed = this.#rowsAt + capacity * this.#stride
      const pages = Math.ceil(needed / PAGE_BYTES) - this.#memory.buffer.byteLength / PAGE_BYTES
      if (pages > 0) this.#memory.grow(pages)
      this.#capacity = Math.floor((this.#memory.buffer.byteLength - this.#rowsAt) / this.#stride)
    }
    if (rows > this.#docNos.length) {
      const grown = new Uint32Array(Math.max(rows, Math.ceil(this.#docNos.length * 1.5)))
      grown.set(this.#docNos)
      this.#docNos = grown
    }
  }

  #write(at: number, vector: Float32Array): void {
    const target = new Float32Array(this.#memory.buffer, at, this.#stride / 4)
    target.fill(0)
    target.set(vector)
    let squares = 0
    for (const component of vector) squares += component * component
    const length = Math.sqrt(squares)
    if (length > 0) for (let n = 0; n < vector.length; n++) target[n] = vector[n]! / length
  }
}
