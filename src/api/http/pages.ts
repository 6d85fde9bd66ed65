import type { FastifyReply } from 'fastify'
import { jsonOf } from '../../base/page-bytes.ts'
import { Slicer } from '../../base/slice.ts'

/** Characters of JSON that are encoded at once. */
const PART_CHARS = 128 * 1024

/** Sends an answer that may carry megabytes in its lists: it is made into JSON item by item, in slices. */
export async function sendPage(reply: FastifyReply, page: object): Promise<FastifyReply> {
  const json = await stringifyInSlices(page, new Slicer(() => reply.request.call.throwIfEnded()))
  return reply.type('application/json; charset=utf-8').send(json)
}

/** As JSON.stringify, of an object with lists in it: text when it is small, else encoded. */
export async function stringifyInSlices(value: object, slicer: Slicer): Promise<string | Buffer> {
  const parts: Buffer[] = []
  let text = ''
  for (const piece of piecesOf(value)) {
    text += piece
    if (text.length >= PART_CHARS || (slicer.due && text.length > 0)) {
      parts.push(Buffer.from(text))
      text = ''
      await slicer.pause()
    }
  }
  if (parts.length === 0) return text
  parts.push(Buffer.from(text))
  return Buffer.concat(parts)
}

function* piecesOf(value: object): Generator<string> {
  let separator = '{'
  for (const [name, member] of Object.entries(value)) {
    if (member === undefined) continue
    const head = `${separator}${JSON.stringify(name)}:`
    separator = ','
    if (!Array.isArray(member)) {
      yield `${head}${JSON.stringify(member)}`
      continue
    }
    yield `${head}[`
    for (const [n, item] of member.entries()) yield `${n > 0 ? ',' : ''}${jsonOf(item) ?? 'null'}`
    yield ']'
  }
  yield separator === '{' ? '{}' : '}'
}
