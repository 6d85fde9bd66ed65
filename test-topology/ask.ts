import { Agent, request as httpRequest } from 'node:http'

const REQUEST_MS_MAX = 10_000

export interface Answer {
  readonly status: number
  readonly headers: Readonly<Record<string, string | string[] | undefined>>
  // biome-ignore lint/suspicious/noExplicitAny: answers of every shape.
  readonly body: any
}

const agent = new Agent({ keepAlive: true, maxSockets: 64 })

/** One request over connections that are kept; rejects when there is no answer in time. */
export function ask(
  url: string,
  method: string,
  headers: Record<string, string>,
  body?: unknown,
  timeoutMs = REQUEST_MS_MAX,
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const text = body === undefined ? undefined : JSON.stringify(body)
    const outgoing = httpRequest(
      url,
      {
        method,
        agent,
        headers: {
          ...headers,
          ...(text === undefined
            ? {}
            : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) }),
        },
      },
      answer => {
        let data = ''
        answer.setEncoding('utf8').on('data', (chunk: string) => {
          data += chunk
        })
        answer.once('error', reject)
        answer.once('end', () => {
          let parsed: unknown
          try {
            parsed = data === '' ? undefined : JSON.parse(data)
          } catch {
            parsed = data
          }
          resolve({ status: answer.statusCode ?? 0, headers: answer.headers, body: parsed })
        })
      },
    )
    outgoing.setTimeout(timeoutMs, () => outgoing.destroy(new Error('no answer in time')))
    outgoing.once('error', reject)
    outgoing.end(text)
  })
}
