import { Transform, type TransformCallback } from 'node:stream'

/** Longer ones are not allowed by RFC 2046 (70, https://www.rfc-editor.org/rfc/rfc2046#section-5.1.1); some clients send them. */
const BOUNDARY = /^[ !#-[\]-~]{1,200}$/

/** The boundary that a form's content type names; undefined: none, or none that is taken. */
export function boundaryOf(contentType: string): string | undefined {
  const [, quoted, plain] = /;\s*boundary=(?:"([^"]*)"|([^\s;"]+))/i.exec(contentType) ?? []
  const boundary = quoted ?? plain
  return boundary !== undefined && BOUNDARY.test(boundary) ? boundary : undefined
}

/**
 * A form on its way to its parser, which counts parts as it takes them apart, and goes on to the end of what it was given: a form of three megabytes with half a million of empty parts took it seconds. Here the delimiters between parts
 * (https://www.rfc-editor.org/rfc/rfc2046#section-5.1.1) are counted before.
 */
export class FormParts extends Transform {
  readonly #delimiter: Buffer
  readonly #partsMax: number
  readonly #tooMany: () => Error
  #parts = 0
  /** The end of what came before, in which a delimiter may begin. The first one may stand at the beginning. */
  #tail: Buffer = Buffer.from('\r\n')

  constructor(boundary: string, partsMax: number, tooMany: () => Error) {
    super()
    this.#delimiter = Buffer.from(`\r\n--${boundary}`)
    this.#partsMax = partsMax
    this.#tooMany = tooMany
  }

  override _transform(piece: Buffer, _encoding: BufferEncoding, done: TransformCallback): void {
    const text = Buffer.concat([this.#tail, piece.subarray(0, this.#delimiter.length - 1)])
    this.#count(text)
    this.#count(piece)
    const kept = this.#delimiter.length - 1
    this.#tail = piece.length >= kept ? piece.subarray(-kept) : Buffer.concat([this.#tail, piece]).subarray(-kept)
    if (this.#parts > this.#partsMax) done(this.#tooMany())
    else done(null, piece)
  }

  #count(text: Buffer): void {
    for (let at = text.indexOf(this.#delimiter); at >= 0 && this.#parts <= this.#partsMax; ) {
      this.#parts++
      at = text.indexOf(this.#delimiter, at + this.#delimiter.length)
    }
  }
}
