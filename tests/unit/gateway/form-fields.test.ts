import { connect, type Socket } from 'node:net'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { afterEach, expect, it } from 'vitest'
import { BusyUploads } from '../../../gateway/busy-uploads.ts'
import { takeForms, takeUpload, type UploadOptions } from '../../../gateway/upload.ts'
import { FairSemaphore } from '../../../src/base/fair-semaphore.ts'
import { parseTenantId } from '../../../src/base/ids.ts'
import { systemTime } from '../../../src/base/time.ts'
import { bareServer } from '../../support/http-server.ts'
import { logger } from '../../support/running.ts'

const closing: (() => unknown)[] = []
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close()
})

const PLACES = 90
const PATIENCE_MS = 60_000
const HEAD =
  'POST /upload HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\nConnection: close\r\n'
const part = (name: string, text: string, type = 'text/plain') =>
  `--b\r\nContent-Disposition: form-data; ${name}\r\nContent-Type: ${type}\r\n\r\n${text}\r\n`
const field = (name: string, text: string, type?: string) => part(`name="${name}"`, text, type)
const FILE = part('name="file"; filename="x.txt"', 'hello')

/** A server that takes uploads, and answers with what jobs would have been made. */
async function uploads() {
  const semaphore = () =>
    new FairSemaphore({ permits: PLACES, perKeyMax: PLACES, waitersMax: 0, waitersPerKeyMax: 0, name: 'uploading' })
  const places = semaphore()
  const doors = semaphore()
  let stored = 0
  const options = {
    objects: {
      put: async (_key: string, body: AsyncIterable<Buffer>) => {
        for await (const _ of body);
        stored++
      },
      delete: async () => void stored--,
    },
    jobs: { newRecord: (record: unknown) => record, enqueue: async () => {} },
    time: systemTime,
    logger,
    doors,
    places,
    busy: new BusyUploads(places),
    bytesMax: 1_000_000,
    idleMs: PATIENCE_MS,
    bytesPerSecondMin: 0,
    bytesPerSecondMinWhenBusy: 0,
    uploadMsMax: PATIENCE_MS,
  } as unknown as UploadOptions
  const app = bareServer()
  await takeForms(app)
  app.post('/upload', request => takeUpload(options, request, parseTenantId('acme'), new AbortController().signal))
  await app.listen({ host: '127.0.0.1', port: 0 })
  closing.push(() => app.close())
  const begin = (text: string): Socket => {
    const socket = connect((app.server.address() as { port: number }).port, '127.0.0.1').on('error', () => {})
    closing.push(() => socket.destroy())
    socket.write(text)
    return socket
  }
  /** The answer to a form, whole or begun. */
  const send = async (form: string, bytes = form.length) => {
    let text = ''
    for await (const piece of begin(`${HEAD}Content-Length: ${bytes}\r\n\r\n${form}`)) text += piece.toString()
    return { status: Number(text.split(' ')[1]), body: JSON.parse(text.slice(text.indexOf('\r\n\r\n'))) }
  }
  return { begin, send, doors, stored: () => stored }
}

function heapUsed(): number {
  setFlagsFromString('--expose-gc')
  ;(runInNewContext('gc') as () => void)()
  return process.memoryUsage().heapUsed
}

it('of an upload whose file does not come, its fields are held as their text, whatever it says they are', async () => {
  const { begin, doors } = await uploads()
  const before = heapUsed()
  const json = `[${'{},'.repeat(10_000)}{}]`
  const fields = field('metadata', json, 'application/json') + field('uri', 'u', 'text/plain')
  for (let n = 0; n < PLACES; n++) begin(`${HEAD}Content-Length: 1000000\r\n\r\n${fields}`)
  await expect.poll(() => doors.held).toBe(PLACES)
  await systemTime.sleep(500)
  // As objects they would be a sixty megabytes.
  expect(heapUsed() - before).toBeLessThan(PLACES * 150_000)
})

it.each([
  ['unknown', field('wat', '1'), 'wat'],
  ['unknown, as JSON', field('wat', '{"toString":1}', 'application/json'), 'wat'],
  ['without a name', part('x="y"', '1'), 'name'],
  ['there twice', field('uri', 'a') + field('uri', 'b'), 'uri'],
  ['too large', field('uri', 'x'.repeat(2049)), 'uri'],
  ['too large for what goes with each chunk', field('metadata', `{"a":"${'x'.repeat(32 * 1024)}"}`), 'metadata'],
  ['JSON and no text', field('category', '{"a":1}', 'application/json'), 'category'],
])('a field that is %s is refused before the rest of its form has come', async (_, form, name) => {
  const { send, stored } = await uploads()
  expect(await send(`${form}--b\r\n`, 1_000_000)).toMatchObject({
    status: 400,
    body: { code: 'INVALID_ARGUMENT', field: name },
  })
  expect(stored()).toBe(0)
})

it('fields come before the file or behind it, and also as JSON', async () => {
  const { send, stored } = await uploads()
  const uri = field('uri', '"file:///a"', 'application/json; charset=utf-8')
  const metadata = field('metadata', '{"a":[1]}', 'application/json')
  expect(await send(`${uri}${FILE}${metadata}${field('category', 'notes')}--b--\r\n`)).toMatchObject({
    status: 200,
    body: { uri: 'file:///a', category: 'notes', metadata: { a: [1] }, file: { name: 'x.txt', bytes: 5 } },
  })
  expect(stored()).toBe(1)
})

it.each([
  ['five parts', `${field('uri', 'u')}${field('category', 'c')}${field('metadata', '{}')}${FILE}${FILE}`, /many parts/],
  ['two files', `${FILE}${FILE}`, /more than one file; send each/],
  ['a file with the name of a field', part('name="metadata"; filename="x.json"', '{}'), /must be named "file"/],
  ['a file without a name', part('x="y"; filename="x.json"', '{}'), /must be named "file"/],
  ['a name that every object has', `${field('toString', '1')}${FILE}`, /prototype property/],
  ['a text as the file', field('file', 'hello'), /no file name/],
])('%s: refused in words that say so, and nothing is kept', async (_, form, detail) => {
  const { send, stored } = await uploads()
  const answer = await send(`${form}--b--\r\n`)
  expect(answer).toMatchObject({ status: 400, body: { code: 'UPLOAD_INVALID' } })
  expect(answer.body.detail).toMatch(detail)
  expect(stored()).toBe(0)
})
