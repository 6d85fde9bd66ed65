import { connect } from 'node:http2'
import { loadPackageDefinition, Server, ServerCredentials, type ServerReadableStream } from '@grpc/grpc-js'
import { afterEach, expect, it } from 'vitest'
import { contractInterceptor } from '../../../src/api/grpc/interceptor.ts'
import { loadRemProto } from '../../../src/api/grpc/protos.ts'
import { strictService } from '../../../src/api/grpc/strict-messages.ts'

const closing: (() => void)[] = []
afterEach(() => {
  for (const close of closing.splice(0)) close()
})

const READ_MS = 1200
const pause = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))

it('the time in which a server took nothing of a stream is not its client\u2019s', async () => {
  const definition = loadRemProto()
  // biome-ignore lint/suspicious/noExplicitAny: methods come from the definition.
  const { service } = (loadPackageDefinition(definition) as any).percolate.v1.Rem
  const server = new Server({ interceptors: [contractInterceptor({ requestReadMs: READ_MS })] })
  let letOn = () => {}
  const held = new Promise<void>(resolve => (letOn = resolve))
  let taken = 0
  server.addService(strictService({ WriteResources: service.WriteResources }, definition), {
    WriteResources: async (call: ServerReadableStream<object, object>, done: (error: null, answer: object) => void) => {
      for await (const _ of call) if (taken++ === 0) await held
      done(null, { written: taken })
    },
  })
  const port = await new Promise<number>(resolve =>
    server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (_, bound) => resolve(bound)),
  )
  const session = connect(`http://127.0.0.1:${port}`)
  closing.push(
    () => session.destroy(),
    () => server.forceShutdown(),
  )
  const call = session.request({
    ':method': 'POST',
    ':path': '/percolate.v1.Rem/WriteResources',
    'content-type': 'application/grpc',
    te: 'trailers',
  })
  let status: string | undefined
  call.on('trailers', trailers => (status = String(trailers['grpc-status'])))
  call.on('response', head => (status ??= head['grpc-status'] as string | undefined))
  call.resume()
  const ended = new Promise(resolve => call.once('close', resolve))
  const message = Buffer.from([0, 0, 0, 0, 3, 0x0a, 1, 0x61])
  // More than the server takes before it is asked for them, and a part of the next.
  call.write(Buffer.concat([...Array(40).fill(message), message.subarray(0, 6)]))
  await pause(1.5 * READ_MS)
  letOn()
  // Less than it may take since, more than the clock that ran meanwhile has left.
  await pause(0.7 * READ_MS)
  call.end(message.subarray(6))
  await ended
  expect([status, taken]).toEqual(['0', 41])
})
