import { createServer, type RequestListener, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import { afterEach, expect, it } from 'vitest'
import { S3ObjectStore } from '../../../src/objects/s3.ts'

let server: Server
let store: S3ObjectStore

/** An object store as it answers on the wire; the adapter is what is looked at. */
async function storeThat(answers: RequestListener): Promise<S3ObjectStore> {
  server = createServer(answers)
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  store = new S3ObjectStore({
    endpoint: `http://127.0.0.1:${port}`,
    region: 'here',
    bucket: 'b',
    accessKey: 'key',
    secretKey: 'secret',
    silenceMsMax: 300,
  })
  return store
}

afterEach(async () => {
  store.close()
  server.closeAllConnections()
  await new Promise(resolve => server.close(resolve))
})

it('a store that does not answer is not waited for without end', async () => {
  const silent = await storeThat(() => {})
  const unavailable = { code: 'OBJECT_STORE_UNAVAILABLE' }
  await Promise.all([
    expect(silent.get('k')).rejects.toMatchObject(unavailable),
    expect(silent.head('k')).rejects.toMatchObject(unavailable),
  ])
})

it('an object that stops coming ends its body with an error', async () => {
  const halting = await storeThat((_, response) => {
    response.writeHead(200, { 'content-length': '1000' })
    response.write('the beginning')
  })
  const { body } = await halting.get('k')
  await expect(text(body)).rejects.toThrow()
})

it('one that comes slowly, for longer than silence may last, is had whole', async () => {
  const slow = await storeThat((_, response) => {
    response.writeHead(200, { 'content-length': '10' })
    let sent = 0
    const timer = setInterval(() => {
      response.write('x')
      if (++sent < 10) return
      clearInterval(timer)
      response.end()
    }, 50)
  })
  expect(await text((await slow.get('k')).body)).toBe('xxxxxxxxxx')
})
