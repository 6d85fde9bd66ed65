/** A document in a ranking, best first. */
export interface Ranked {
  readonly docNo: number
  readonly score: number
}

/**
 * The `count` best of the scored documents that are offered: higher scores first, and of equal scores the lower document number, so that paging is stable. What is offered need not be in any order,
 * and costs O(log count) at most; most of a long list is refused by one comparison. Memory: 16 bytes a document that is kept. A heap in two arrays, whose root is the worst that is kept.
 */
export class Best {
  readonly #count: number
  readonly #docNos: number[] = []
  readonly #scores: number[] = []

  /** `count`: documents to keep at most, ≥ 0. */
  constructor(count: number) {
    this.#count = count
  }

  /** Each document is to be offered once. `score`: any number but NaN. */
  offer(docNo: number, score: number): void {
    const size = this.#docNos.length
    if (size < this.#count) {
      this.#docNos.push(docNo)
      this.#scores.push(score)
      this.#rise(size)
    } else if (size > 0 && this.#isWorse(0, docNo, score)) this.#sink(docNo, score)
  }

  /** Best first. */
  ranked(): Ranked[] {
    return this.#docNos
      .map((docNo, n) => ({ docNo, score: this.#scores[n]! }))
      .sort((a, b) => b.score - a.score || a.docNo - b.docNo)
  }

  /** Whether what is at `at` comes after the given document. */
  #isWorse(at: number, docNo: number, score: number): boolean {
    const there = this.#scores[at]!
    return there < score || (there === score && this.#docNos[at]! > docNo)
  }

  #rise(from: number): void {
    const docNo = this.#docNos[from]!
    const score = this.#scores[from]!
    let at = from
    while (at > 0) {
      const parent = (at - 1) >> 1
      // A parent that is worse already, or the document itself, stays above.
      if (this.#isWorse(parent, docNo, score)) break
      this.#move(parent, at)
      at = parent
    }
    this.#put(at, docNo, score)
  }

  /** The given document takes the place of the root. */
  #sink(docNo: number, score: number): void {
    const size = this.#docNos.length
    let at = 0
    for (;;) {
      let child = 2 * at + 1
      if (child >= size) break
      const right = child + 1
      if (right < size && this.#isWorse(right, this.#docNos[child]!, this.#scores[child]!)) child = right
      if (!this.#isWorse(child, docNo, score)) break
      this.#move(child, at)
      at = child
    }
    this.#put(at, docNo, score)
  }

  #move(from: number, to: number): void {
    this.#put(to, this.#docNos[from]!, this.#scores[from]!)
  }

  #put(at: number, docNo: number, score: number): void {
    this.#docNos[at] = docNo
    this.#scores[at] = score
  }
}
