import { Readable } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { boundaryOf, FormParts } from '../../../gateway/form-parts.ts'

const BOUNDARY = 'b-b'
const DELIMITER = `\r\n--${BOUNDARY}`

/** What comes out of a form, or undefined when it has too many parts. */
async function through(form: Buffer, sizes: readonly number[], partsMax: number): Promise<Buffer | undefined> {
  const pieces: Buffer[] = []
  for (let at = 0, n = 0; at < form.length; n++) {
    const size = sizes[n % sizes.length]!
    pieces.push(form.subarray(at, at + size))
    at += size
  }
  const parts = new FormParts(BOUNDARY, partsMax, () => new Error('too many'))
  try {
    return await buffer(Readable.from(pieces, { objectMode: false }).compose(parts))
  } catch (error) {
    expect((error as Error).message).toBe('too many')
    return undefined
  }
}

describe('parts of a form', () => {
  it('are counted, wherever the form is cut', async () => {
    const text = fc.constantFrom('x', '\r\n', '-', '--', BOUNDARY, `--${BOUNDARY}`, DELIMITER, 'b-', '\r')
    const sizes = fc.array(fc.integer({ min: 1, max: 12 }), { minLength: 1, maxLength: 5 })
    const seen = { passed: 0, refused: 0 }
    await fc.assert(
      fc.asyncProperty(
        fc.array(text, { maxLength: 30 }),
        sizes,
        fc.integer({ min: 0, max: 4 }),
        async (texts, of, max) => {
          const form = texts.join('')
          const parts = `\r\n${form}`.split(DELIMITER).length - 1
          const passed = await through(Buffer.from(form), of, max)
          seen[passed ? 'passed' : 'refused']++
          if (parts > max) expect(passed).toBe(undefined)
          else expect(passed?.toString()).toBe(form)
        },
      ),
      { numRuns: 500 },
    )
    expect(Math.min(seen.passed, seen.refused)).toBeGreaterThan(50)
  })
})

describe('the boundary of a form', () => {
  it.each([
    ['multipart/form-data; boundary=abc', 'abc'],
    ['multipart/form-data;boundary="a b=c";charset=utf-8', 'a b=c'],
    ['multipart/form-data; charset=utf-8; Boundary====1==', '===1=='],
    ['multipart/form-data; boundary=----WebKitFormBoundary7MA4YWxk', '----WebKitFormBoundary7MA4YWxk'],
    ['multipart/form-data', undefined],
    ['multipart/form-data; boundary=', undefined],
    ['multipart/form-data; boundary=""', undefined],
    [`multipart/form-data; boundary=${'x'.repeat(201)}`, undefined],
    ['multipart/form-data; boundary="a\\"b"', undefined],
  ])('%s: %s', (type, boundary) => {
    expect(boundaryOf(type)).toBe(boundary)
  })
})
