import { connect } from 'node:net'
import { text } from 'node:stream/consumers'
import { expect, it } from 'vitest'
import { startFileNode } from '../support/running.ts'

const node = await startFileNode()
const HEAD =
  'PUT /api/v1/entities/e HTTP/1.1\r\nHost: x\r\nX-Tenant-ID: acme\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n'

/** All that the server says on a connection, until it closes it. */
function said(request: string): Promise<string> {
  const socket = connect(node.httpPort, '127.0.0.1')
  socket.write(request)
  return text(socket)
}

it('a body in very many chunks of one byte is refused, and its connection closes behind the answer', async () => {
  const answer = await said(`${HEAD}${'1\r\na\r\n'.repeat(300_000)}0\r\n\r\n`)
  expect(answer).toMatch(/^HTTP\/1\.1 400 /)
  expect(answer.toLowerCase()).toContain('connection: close')
  expect(answer).toContain('"code":"REQUEST_MALFORMED"')
  expect(answer).toContain('send it in larger chunks')
})

it('a body in chunks of one byte is taken when it is small', async () => {
  const body = JSON.stringify({ properties: { note: 'x'.repeat(3000) } })
  const chunks = [...body].map(letter => `1\r\n${letter}\r\n`).join('')
  const head = HEAD.replace('\r\n\r\n', '\r\nConnection: close\r\n\r\n')
  expect(await said(`${head}${chunks}0\r\n\r\n`)).toMatch(/^HTTP\/1\.1 20[01] /)
})

it('so is one behind a target that is none, or behind what nobody here expects', async () => {
  const endless = `Transfer-Encoding: chunked\r\n\r\n${'1\r\na\r\n'.repeat(100_000)}`
  for (const [head, status] of [
    ['POST /%zz HTTP/1.1\r\nHost: x\r\n', 400],
    ['POST /health HTTP/1.1\r\nHost: x\r\nExpect: tea\r\n', 417],
  ] as const) {
    const answer = await said(`${head}${endless}`)
    expect(answer).toMatch(new RegExp(`^HTTP/1\\.1 ${status} `))
    expect(answer.toLowerCase()).toContain('connection: close')
  }
})

it.each([
  ['POST /nowhere', 404],
  ['PUT /api/v1/resources', 405],
  ['OPTIONS /api/v1/resources', 405],
  ['POST /health', 405],
])('%s is answered before its body has come, and nothing of that is taken apart', async (route, status) => {
  const head = `${route} HTTP/1.1\r\nHost: x\r\nX-Tenant-ID: acme\r\nContent-Type: application/json\r\n`
  for (const body of [
    `Transfer-Encoding: chunked\r\n\r\n${'1\r\na\r\n'.repeat(100_000)}`,
    'Content-Length: 100000\r\n\r\nx',
  ]) {
    const answer = await said(`${head}${body}`)
    expect(answer).toMatch(new RegExp(`^HTTP/1\\.1 ${status} `))
    expect(answer.toLowerCase()).toContain('connection: close')
  }
})

it('a small request that is refused keeps its connection', async () => {
  const head = (more: string) => `POST /nowhere HTTP/1.1\r\nHost: x\r\n${more}Content-Length: 2\r\n\r\n{}`
  const answer = await said(`${head('')}${head('')}${head('Connection: close\r\n')}`)
  expect(answer.match(/HTTP\/1\.1 404 /g)).toHaveLength(3)
})
