/** HTTP/2 by hand, for what no client library sends (https://www.rfc-editor.org/rfc/rfc9113). */

export const DATA = 0
export const HEADERS = 1
export const PRIORITY = 2
export const RST_STREAM = 3
export const SETTINGS = 4
export const PING = 6
export const GOAWAY = 7
export const WINDOW_UPDATE = 8
export const CONTINUATION = 9
export const END_STREAM = 1
export const END_HEADERS = 4
export const PADDED = 8
export const CANCEL = Buffer.from([0, 0, 0, 8])

export function frame(type: number, flags: number, stream: number, payload: Buffer = Buffer.alloc(0)): Buffer {
  const head = Buffer.alloc(9)
  head.writeUIntBE(payload.length, 0, 3)
  head.writeUInt8(type, 3)
  head.writeUInt8(flags, 4)
  head.writeUInt32BE(stream, 5)
  return Buffer.concat([head, payload])
}

/** What a connection begins with. */
export const PREFACE = Buffer.concat([Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'), frame(SETTINGS, 0, 0)])

/** A header that is in no table, without Huffman coding (https://www.rfc-editor.org/rfc/rfc7541#section-6.2.2). */
export const literal = (name: string, value: string): Buffer =>
  Buffer.concat([Buffer.from([0, name.length]), Buffer.from(name), Buffer.from([value.length]), Buffer.from(value)])

/** The header block of a gRPC call. */
export const callHeaders = (path: string, more: Record<string, string> = {}): Buffer =>
  Buffer.concat([
    // :method: POST, :scheme: http
    Buffer.from([0x83, 0x86]),
    ...Object.entries({
      ':path': path,
      ':authority': 'localhost',
      'content-type': 'application/grpc',
      te: 'trailers',
      ...more,
    }).map(([name, value]) => literal(name, value)),
  ])

/** The ids of a client's streams: 1, 3, 5, … */
export const streams = (count: number): number[] => Array.from({ length: count }, (_, n) => 2 * n + 1)
