import { mkdtemp, writeFile } from 'node:fs/promises'
import { createServer, type IncomingMessage } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { endpointSlice, KubernetesRouter } from '../../../src/activator/kubernetes.ts'

const nodes = [
  { name: 'n0', pod: 'percolate-small-0', http: '10.1.2.3:8080', grpc: '10.1.2.3:50051', zone: 'a' },
  { name: 'percolate-small-1', http: '10.1.2.4:8080', grpc: '10.1.2.4:50051' },
]

/** An end that keeps what it is sent, and answers as it is told to. */
const seen: { request: IncomingMessage; body: string }[] = []
let answer = { status: 200, body: '{}' }
const server = createServer((request, response) => {
  let body = ''
  request.setEncoding('utf8').on('data', text => {
    body += text
  })
  request.once('end', () => {
    seen.push({ request, body })
    response.writeHead(answer.status, { 'content-type': 'application/json' }).end(answer.body)
  })
})
let router: KubernetesRouter
beforeAll(async () => {
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const credentials = await mkdtemp(join(tmpdir(), 'percolate-test-'))
  await writeFile(join(credentials, 'token'), 'a-token\n')
  const { port } = server.address() as { port: number }
  router = new KubernetesRouter({ url: `http://127.0.0.1:${port}`, credentials, namespace: 'prod' })
})
afterAll(() => server.close())

it('applies the slice of a tier, as a service account', async () => {
  await router.write('small', nodes)
  const { request, body } = seen.at(-1)!
  expect([request.method, request.url]).toEqual([
    'PATCH',
    '/apis/discovery.k8s.io/v1/namespaces/prod/endpointslices/percolate-small?fieldManager=percolate-controller&force=true',
  ])
  expect(request.headers).toMatchObject({
    authorization: 'Bearer a-token',
    'content-type': 'application/apply-patch+yaml',
  })
  expect(JSON.parse(body)).toEqual(endpointSlice('small', 'prod', nodes))
})

it('says what the API server has against it, without the token', async () => {
  answer = { status: 403, body: '{"kind":"Status","message":"endpointslices is forbidden"}' }
  const error = await router.write('small', nodes).catch((reason: Error) => reason)
  expect(String(error)).toMatch(/403.*endpointslices is forbidden/)
  expect(String(error)).not.toContain('a-token')
})

it('names ports and zones, and takes addresses only', () => {
  const slice = endpointSlice('small', 'prod', nodes)
  expect(slice.ports.map(({ name, port }) => [name, port])).toEqual([
    ['http', 8080],
    ['grpc', 50051],
  ])
  expect(slice.endpoints.map(({ addresses, zone }) => [addresses, zone])).toEqual([
    [['10.1.2.3'], 'a'],
    [['10.1.2.4'], undefined],
  ])
  // A mesh drops an endpoint that names a pod which does not exist: none is named that is not known.
  expect(slice.endpoints.map(({ targetRef }) => targetRef)).toEqual([
    { kind: 'Pod', name: 'percolate-small-0', namespace: 'prod' },
    undefined,
  ])
  expect(slice.metadata.labels['kubernetes.io/service-name']).toBe('percolate-small')
  expect(
    endpointSlice('small', 'prod', [{ name: 'activator', http: '[fd00::1]:8090', grpc: '[fd00::1]:50090' }]),
  ).toMatchObject({
    addressType: 'IPv6',
    endpoints: [{ addresses: ['fd00::1'] }],
  })
  expect(() => endpointSlice('small', 'prod', [{ name: 'n', http: 'n.local:1', grpc: 'n.local:2' }])).toThrow(
    /PERCOLATE_ADVERTISE_HOST/,
  )
})
