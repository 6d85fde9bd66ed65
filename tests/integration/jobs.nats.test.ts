import { request as httpRequest } from 'node:http'
import { connect } from 'node:net'
import { text } from 'node:stream/consumers'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type RunningGateway, startGateway } from '../../gateway/gateway.ts'
import { parseTenantId } from '../../src/base/ids.ts'
import { systemTime } from '../../src/base/time.ts'
import { encodeJobMessage } from '../../src/jobs/model.ts'
import { subjects } from '../../src/stream/subjects.ts'
import { documentEntityId } from '../../workers/ids.ts'
import { makeDocx, makePdf, makeSpinningPdf, makeXlsx } from '../support/documents.ts'
import { Ingestion } from '../support/ingestion.ts'
import { eventually, listed, logger, request, testConfig } from '../support/running.ts'

const env = {
  PERCOLATE_JOB_ACK_WAIT_MS: '1500',
  PERCOLATE_JOB_ATTEMPTS_MAX: '3',
  PERCOLATE_UPLOAD_BYTES_MAX: '20000000',
  PERCOLATE_UPLOAD_IDLE_MS: '700',
  PERCOLATE_UPLOADS_MAX: '2',
  PERCOLATE_PARSE_TIMEOUT_MS: '20000',
}
const acme = parseTenantId('acme')
let parts: Ingestion
let stream: Ingestion['stream']
let objects: Ingestion['objects']
let node: Ingestion['node']
let jobs: Ingestion['jobs']
let url: string

beforeAll(async () => {
  parts = await Ingestion.start({ env })
  ;({ stream, objects, node, jobs } = parts)
  url = await parts.startGateway()
  await parts.startWorker()
})
afterAll(() => parts.stop())

const upload = (...file: Parameters<Ingestion['upload']>) => parts.upload(...file)
const finished = (id: string, tenant = 'acme') =>
  eventually(`job ${id} finishes`, async () => {
    const { body } = await request(`${url}/jobs/${id}`, 'GET', { tenant })
    return ['completed', 'failed', 'dead', 'cancelled'].includes(body.status) && body
  })
const ingest = async (name: string, content: Buffer | string, fields?: Record<string, string>, tenant?: string) =>
  finished((await upload(name, content, fields, tenant)).body.job_id, tenant)
const objectsLeft = async () => (await listed(objects, 'uploads/')).length

describe('the way of a document', () => {
  it.each([
    ['handbook.docx', makeDocx, 'how many vacation days'],
    [
      'terms.pdf',
      () => makePdf([{ heading: 'Terms', lines: ['The deposit is refunded after inspection.'] }]),
      'deposit refund',
    ],
    ['catalogue.xlsx', async () => makeXlsx(), 'price of rocket skates'],
  ])('%s is uploaded, parsed, and found with its place', async (name, make, question) => {
    const job = await ingest(name, await make())
    expect(job).toMatchObject({ status: 'completed', stage: 'done', attempts: 1 })
    expect(job.done).toBe(job.total)
    const { body } = await node.request('GET', `/api/v1/resources?query=${encodeURIComponent(question)}`)
    expect(body.results[0]).toMatchObject({ embedding: 'stored', metadata: { document: name } })
  })

  it('makes entities with mention edges, and a moment', async () => {
    const job = await ingest('people.txt', 'Grace Hopper met Alan Turing in London. Write to grace@navy.example.', {
      uri: 'file:///people.txt',
      category: 'letters',
      metadata: '{"box":7}',
    })
    const people = (await node.request('GET', '/api/v1/entities?name=grace+hopper')).body.results
    expect(people[0]).toMatchObject({ type: 'person', name: 'Grace Hopper' })
    const { body: walk } = await node.request(
      'GET',
      `/api/v1/entities/${encodeURIComponent(people[0].id)}/traverse?direction=in`,
    )
    expect(walk.results.map((entity: { name: string }) => entity.name)).toContain('people.txt')
    const moments = (await node.request('GET', '/api/v1/moments?type=ingestion')).body.results
    expect(moments.some(({ metadata }: { metadata: { job_id: string } }) => metadata.job_id === job.job_id)).toBe(true)
    const { body } = await node.request('GET', '/api/v1/resources?category=letters')
    expect(body.results[0]).toMatchObject({ uri: 'file:///people.txt', metadata: { box: 7 } })
  })

  it('a new version under the same uri takes the place of the old one', async () => {
    await ingest('v.txt', 'The old text says amber.', { uri: 'file:///v.txt' })
    await ingest('v.txt', 'The new text says cobalt.', { uri: 'file:///v.txt' })
    const { body } = await node.request('GET', `/api/v1/resources?uri=${encodeURIComponent('file:///v.txt')}`)
    expect(body.results.map(({ content }: { content: string }) => content)).toEqual(['The new text says cobalt.'])
  })

  it('and no longer mentions whom only the old one did', async () => {
    const uri = 'file:///firms.txt'
    await ingest('firms.txt', 'A letter from Firmone Inc. and from Firmtwo Inc. came.', { uri })
    const id = documentEntityId(uri)
    const mentioned = async () => {
      const { body } = await node.request('GET', `/api/v1/entities/${encodeURIComponent(id)}`)
      return body.edges
        .filter(({ type }: { type: string }) => type === 'mentions')
        .map(({ to }: { to: string }) => to)
        .sort()
    }
    expect(await mentioned()).toEqual(['organization:firmone-inc', 'organization:firmtwo-inc'])
    const edges = [
      { type: 'cites', to: 'kept' },
      { type: 'mentions', to: 'by-hand' },
    ]
    await node.request('PUT', `/api/v1/entities/${encodeURIComponent(id)}`, { body: { edges } })
    await ingest('firms.txt', 'A letter from Firmtwo Inc. and from Firmthree Inc. came.', { uri })
    expect(await mentioned()).toEqual(['by-hand', 'organization:firmthree-inc', 'organization:firmtwo-inc'])
    const { body } = await node.request('GET', `/api/v1/entities/${encodeURIComponent(id)}`)
    expect(body.edges.map(({ type }: { type: string }) => type)).toContain('cites')
  })

  it('doing a job again changes nothing, and does not bring back what was deleted', async () => {
    const { body } = await upload('again.txt', 'Unique marker quetzalcoatl.', { uri: 'file:///again.txt' })
    await finished(body.job_id)
    const before = (await node.request('GET', '/api/v1/resources?query=quetzalcoatl')).body.results
    expect(before.length).toBe(1)
    const record = (await jobs.get(acme, body.job_id))!
    await jobs.update(record, () => ({ status: 'queued', message: undefined as never }))
    await stream.publish(subjects.jobs('small'), encodeJobMessage(record), `again-${Date.now()}`)
    await eventually(
      'it completes again',
      async () =>
        (await jobs.get(acme, body.job_id))?.attempts === 2 &&
        (await jobs.get(acme, body.job_id))?.status === 'completed',
    )
    expect((await node.request('GET', '/api/v1/resources?query=quetzalcoatl')).body.results).toEqual(before)
    await node.request('DELETE', `/api/v1/resources/${before[0].id}`)
    await jobs.update(record, () => ({ status: 'queued', message: undefined as never }))
    await stream.publish(subjects.jobs('small'), encodeJobMessage(record), `again-${Date.now()}`)
    await eventually(
      'it completes a third time',
      async () =>
        (await jobs.get(acme, body.job_id))?.attempts === 3 &&
        (await jobs.get(acme, body.job_id))?.status === 'completed',
    )
    expect((await node.request('GET', '/api/v1/resources?query=quetzalcoatl')).body.results).toEqual([])
  })
})

describe('waiting for a job', () => {
  const uploadAndWait = (wait: string, name: string, content: Buffer | string, tenant = 'acme') => {
    const form = new FormData()
    form.set('file', new Blob([content as never]), name)
    return request(`${url}/upload?wait=${wait}`, 'POST', { tenant, body: form })
  }

  it('an upload that waits is answered when its document can be found', async () => {
    const { status, body, headers } = await uploadAndWait('60s', 'waited.txt', 'The marker is heliotrope.')
    expect([status, body.status, headers.get('location')]).toEqual([200, 'completed', `/jobs/${body.job_id}`])
    const found = await node.request('GET', '/api/v1/resources?query=heliotrope')
    expect(found.body.results[0].metadata.document).toBe('waited.txt')
    const failed = await uploadAndWait('60', 'lies.pdf', 'plain text')
    expect([failed.status, failed.body.status, failed.body.stage]).toEqual([200, 'failed', 'parse'])
  })

  it('who has not waited long enough gets what is known, and may go on waiting; the wait is bounded', async () => {
    const { status, body } = await uploadAndWait('100ms', 'spin.pdf', makeSpinningPdf())
    expect([status, Object.keys(body)]).toEqual([202, ['job_id', 'status']])
    const waiting = request(`${url}/jobs/${body.job_id}?wait=60s`, 'GET')
    expect((await request(`${url}/jobs/${body.job_id}`, 'DELETE')).body.status).toBe('cancelled')
    expect((await waiting).body.status).toBe('cancelled')
    for (const wait of ['61s', '2m', 'x', '-1', '1e3', ''])
      expect((await uploadAndWait(wait, 'a.txt', 'x')).body).toMatchObject({ status: 400, field: 'wait' })
    expect((await request(`${url}/jobs/nothing?wait=30s`, 'GET')).status).toBe(404)
  })
})

describe('the gateway to those who look', () => {
  it('has a page at /, documents every route that it has, and says where the rest is', async () => {
    const page = await request(url, 'GET', { tenant: undefined, headers: { accept: 'text/html' } })
    expect(page.body).toContain('upload gateway')
    expect((await request(`${url}/docs`, 'GET', { tenant: undefined })).body).toContain('<title>Swagger UI')
    const { paths } = (await request(`${url}/openapi.json`, 'GET', { tenant: undefined })).body
    for (const [path, operations] of Object.entries(paths as Record<string, object>))
      for (const method of Object.keys(operations)) {
        const answer = await request(url + path.replace('{id}', 'no-such-job'), method.toUpperCase())
        expect(answer.body.code, `${method} ${path}`).not.toBe('ROUTE_NOT_FOUND')
        expect(answer.status, `${method} ${path}`).not.toBe(405)
      }
    expect((await request(`${url}/api/v1/resources`, 'GET')).body.detail).toContain('8080')
  })
})

describe('jobs that cannot be done', () => {
  it('fail with the reason, are dead-lettered, and can be retried by hand', async () => {
    const job = await ingest('lies.pdf', 'this is plain text')
    expect(job).toMatchObject({ status: 'failed', error: { code: 'DOCUMENT_UNSUPPORTED' } })
    const listed = (await request(`${url}/jobs`, 'GET')).body.results
    expect(listed.find(({ job_id }: { job_id: string }) => job_id === job.job_id).error.detail).toContain('lies.pdf')
    const first = (await request(`${url}/jobs?limit=1`, 'GET')).body
    const next = (await request(`${url}/jobs?limit=1&cursor=${first.cursor}`, 'GET')).body
    expect([...first.results, ...next.results]).toEqual(listed.slice(0, 2))
    for (const [query, field] of [
      ['limit=0', 'limit'],
      ['limit=1001', 'limit'],
      ['cursor=x', 'cursor'],
    ])
      expect((await request(`${url}/jobs?${query}`, 'GET')).body).toMatchObject({ status: 400, field })
    expect(await stream.depth(subjects.deadJobsStream)).toBeGreaterThan(0)
    expect((await request(`${url}/jobs/${job.job_id}/retry`, 'POST')).status).toBe(202)
    expect((await finished(job.job_id)).status).toBe('failed')
  })

  it('a message that was started too often is dead-lettered before it is started again', async () => {
    const job = jobs.newRecord({
      job_id: 'poison-1',
      tenant: acme,
      kind: 'ingest',
      clock: '000000000001-00000000-x',
      attempts: 3,
      file: { name: 'p.txt', objectKey: 'nowhere', bytes: 1, contentType: null, sha256: '' },
      uri: 'x:p',
    })
    await jobs.enqueue(job)
    const dead = await finished('poison-1')
    expect(dead).toMatchObject({ status: 'dead', attempts: 3, error: { code: 'JOB_POISONOUS' } })
  })

  it('garbage in the job stream is put aside', async () => {
    const before = await stream.depth(subjects.deadJobsStream)
    await stream.publish(subjects.jobs('small'), Buffer.from('{"version":9}'), `garbage-${Date.now()}`)
    await eventually('the dead letter', async () => (await stream.depth(subjects.deadJobsStream)) === before + 1)
    await eventually('the queue is empty', async () => (await jobs.depth()) === 0)
  })

  it('can be cancelled, and are seen by their own tenant only', async () => {
    const { body } = await upload('mine.txt', 'mine')
    expect((await request(`${url}/jobs/${body.job_id}`, 'GET', { tenant: 'other' })).status).toBe(404)
    expect((await request(`${url}/jobs`, 'GET', { tenant: 'other' })).body.results).toEqual([])
    await finished(body.job_id)
    expect((await request(`${url}/jobs/${body.job_id}`, 'DELETE')).body.code).toBe('JOB_STATE')
    for (const id of ['nope', '..%2F..', 'a.b', '*'])
      expect((await request(`${url}/jobs/${id}`, 'GET')).status).toBe(404)
  })
})

describe('bad uploads leave nothing', () => {
  it('no file, an empty file, another part, no form, too large', async () => {
    const before = await objectsLeft()
    const jobsBefore = (await jobs.list(acme)).jobs.length
    const empty = new FormData()
    empty.set('uri', 'x')
    expect((await request(`${url}/upload`, 'POST', { body: empty })).body).toMatchObject({
      status: 400,
      code: 'UPLOAD_INVALID',
    })
    expect((await upload('e.txt', '')).body).toMatchObject({ code: 'UPLOAD_INVALID', field: 'file' })
    const other = new FormData()
    other.set('document', new Blob(['x']), 'x.txt')
    expect((await request(`${url}/upload`, 'POST', { body: other })).body.code).toBe('UPLOAD_INVALID')
    expect((await request(`${url}/upload`, 'POST', { body: { file: 'x' } })).body.code).toBe('UNSUPPORTED_MEDIA_TYPE')
    expect((await request(`${url}/upload`, 'POST', { body: '{"no JSON' })).body.code).toBe('UNSUPPORTED_MEDIA_TYPE')
    const two = new FormData()
    for (const name of ['a.txt', 'b.txt']) two.append('file', new Blob(['x']), name)
    expect((await request(`${url}/upload`, 'POST', { body: two })).body.detail).toMatch(/more than one file; send each/)
    expect((await upload('x.txt', 'x', { uri: 'file:///\ufffd' })).body).toMatchObject({
      code: 'INVALID_ARGUMENT',
      field: 'uri',
    })
    expect((await upload('x.txt', 'x', { wat: '1' })).body).toMatchObject({ code: 'INVALID_ARGUMENT', field: 'wat' })
    expect((await upload('x.txt', 'x', { metadata: '[1]' })).body).toMatchObject({
      code: 'INVALID_ARGUMENT',
      field: 'metadata',
    })
    // As `curl -F 'category={…};type=application/json'` sends it.
    const part = (name: string, type: string, text: string) =>
      `--cut\r\ncontent-disposition: form-data; ${name}\r\ncontent-type: ${type}\r\n\r\n${text}\r\n`
    const typed = (value: string) =>
      request(`${url}/upload`, 'POST', {
        body: `${part('name="file"; filename="x.txt"', 'text/plain', 'x')}${part('name="wat"', 'application/json', value)}--cut--\r\n`,
        headers: { 'content-type': 'multipart/form-data; boundary=cut' },
      })
    expect((await typed('{"toString":1,"valueOf":1}')).body).toMatchObject({ code: 'INVALID_ARGUMENT', field: 'wat' })
    expect((await upload('big.txt', Buffer.alloc(21_000_000, 'x'))).body).toMatchObject({
      status: 413,
      code: 'UPLOAD_TOO_LARGE',
    })
    expect((await request(`${url}/upload`, 'POST', { tenant: undefined, body: empty })).body.code).toBe(
      'TENANT_MISSING',
    )
    expect(await objectsLeft()).toBe(before)
    expect((await jobs.list(acme)).jobs.length).toBe(jobsBefore)
  })

  it('a form in very many chunks of one byte, wherever they are, is refused, and what comes behind is not taken apart', async () => {
    const before = await objectsLeft()
    const { port } = new URL(url)
    const one = (text: string) => [...text].map(letter => `1\r\n${letter}\r\n`).join('')
    const whole = (text: string) => `${text.length.toString(16)}\r\n${text}\r\n`
    const head = (type = 'multipart/form-data; boundary=b') =>
      `POST /upload HTTP/1.1\r\nHost: x\r\nX-Tenant-ID: acme\r\nContent-Type: ${type}\r\nTransfer-Encoding: chunked\r\n\r\n`
    const part = (name: string) => `--b\r\nContent-Disposition: form-data; ${name}\r\n\r\n`
    const said = (request: string) => {
      const socket = connect(Number(port), '127.0.0.1')
      socket.write(request)
      return text(socket)
    }
    const endless = '1\r\nx\r\n'.repeat(200_000)
    for (const begun of [one(part('name="file"; filename="x.txt"')), one(part('name="metadata"')), '']) {
      const answer = await said(`${head()}${begun}${endless}`)
      expect(answer).toMatch(/^HTTP\/1\.1 400 /)
      expect(answer.toLowerCase()).toContain('connection: close')
      expect(answer).toContain('"code":"REQUEST_MALFORMED"')
    }
    for (const [request, code] of [
      [`${head()}${whole(part('name="other"; filename="x.txt"'))}${one('x'.repeat(100))}`, 'UPLOAD_INVALID'],
      [`${head('text/plain')}${endless}`, 'UNSUPPORTED_MEDIA_TYPE'],
      [`${head().replace('X-Tenant-ID', 'X-None')}${endless}`, 'TENANT_MISSING'],
      [`${head().replace('/upload', '/nowhere')}${endless}`, 'ROUTE_NOT_FOUND'],
    ] as const) {
      const answer = await said(request)
      expect(answer.toLowerCase()).toContain('connection: close')
      expect(answer).toContain(`"code":"${code}"`)
    }
    expect(await objectsLeft()).toBe(before)
    const form = `${part('name="file"; filename="x.txt"')}hello${'\r\n--b--\r\n'}`
    expect(await said(`${head().replace('Host: x', 'Host: x\r\nConnection: close')}${one(form)}0\r\n\r\n`)).toMatch(
      /^HTTP\/1\.1 202 /,
    )
  })

  it('a client that hangs up in the middle, before and after a part was sent on, or goes silent', async () => {
    const before = await objectsLeft()
    const jobsBefore = (await jobs.list(acme)).jobs.length
    const head = '--b\r\nContent-Disposition: form-data; name="file"; filename="x.txt"\r\n\r\n'
    const start = (bytes: number) => {
      const client = httpRequest(`${url}/upload`, {
        method: 'POST',
        headers: { 'x-tenant-id': 'acme', 'content-type': 'multipart/form-data; boundary=b' },
      })
      const status = new Promise<number | undefined>(resolve => {
        client.on('response', response => {
          response.resume()
          resolve(response.statusCode)
        })
        client.on('error', () => resolve(undefined))
      })
      client.write(head)
      client.write(Buffer.alloc(bytes, 'x'))
      return { client, status }
    }
    for (const bytes of [1000, 12_000_000]) {
      const { client } = start(bytes)
      await systemTime.sleep(300)
      client.destroy()
    }
    const silent = start(1000)
    expect(await silent.status).toBe(408)
    const cut = start(1000)
    cut.client.end()
    expect(await cut.status).toBe(400)
    await systemTime.sleep(300)
    expect(await objectsLeft()).toBe(before)
    expect((await jobs.list(acme)).jobs.length).toBe(jobsBefore)
  })

  it('file names are names, never paths', async () => {
    const job = await ingest('../../etc/passwd', 'harmless text')
    expect(job).toMatchObject({ status: 'completed', file: { name: 'passwd' } })
  })
})

describe('one worker, many tenants', () => {
  const send = (tenant: string, name: string, content: Buffer | string) => upload(name, content, {}, tenant)
  const state = async (id: string, tenant: string) => (await request(`${url}/jobs/${id}`, 'GET', { tenant })).body
  const cancel = (id: string, tenant: string) => request(`${url}/jobs/${id}`, 'DELETE', { tenant })

  it('hostile documents of one tenant leave slots to others, and end when they are cancelled', async () => {
    const hostile: string[] = []
    for (let n = 0; n < 20; n++) hostile.push((await send('mallory', `spin${n}.pdf`, makeSpinningPdf())).body.job_id)
    const running = async () => {
      const all = await Promise.all(hostile.map(id => state(id, 'mallory')))
      return all.filter(({ status, stage }) => status === 'running' && stage === 'parse').length
    }
    await eventually('they spin', async () => (await running()) === 2)
    for (const tenant of ['acme', 'bert']) {
      const job = await ingest('small.txt', `A small file of ${tenant}.`, {}, tenant)
      expect(job.status).toBe('completed')
      expect(await running()).toBe(2)
    }
    for (const id of hostile) expect((await cancel(id, 'mallory')).body.status).toBe('cancelled')
    expect((await ingest('mine.txt', 'The other file of mallory.', {}, 'mallory')).status).toBe('completed')
    await eventually('no slot is held', async () => (await jobs.depth()) === 0)
    const { body } = await node.request('GET', '/api/v1/resources?query=spin', { tenant: 'mallory' })
    expect(body.results.filter(({ name }: { name: string }) => name.startsWith('spin'))).toEqual([])
  })

  it('a file name in any script, with control characters, or as long as allowed, comes in whole', async () => {
    for (const name of [`${'漢'.repeat(337)}.txt`, 'a\u0085b\u0001c.txt']) {
      const { status, body } = await upload(name, `The content of ${name.length}.`)
      expect(status).toBe(202)
      expect((await finished(body.job_id)).status).toBe('completed')
    }
    expect((await upload(`${'漢'.repeat(342)}.txt`, 'x')).body).toMatchObject({ status: 400, field: 'filename' })
    const deep = `${'{"a":'.repeat(20)}1${'}'.repeat(20)}`
    expect((await upload('x.txt', 'x', { metadata: deep })).body).toMatchObject({ code: 'INVALID_ARGUMENT' })
  })

  it('a job whose document stands cannot be cancelled any more, and stays as it is', async () => {
    const done = await ingest('stands.txt', 'A text that stands.')
    await expect(request(`${url}/jobs/${done.job_id}`, 'DELETE')).resolves.toMatchObject({
      status: 409,
      body: { code: 'JOB_STATE', detail: 'The job is completed already.' },
    })
    // As while the version before it is being removed.
    const replacing = await jobs.update((await jobs.get(acme, done.job_id))!, () => ({
      status: 'running',
      stage: 'replace',
      settled: true,
    }))
    await expect(request(`${url}/jobs/${done.job_id}`, 'DELETE')).resolves.toMatchObject({
      status: 409,
      body: { code: 'JOB_STATE', detail: expect.stringMatching(/is in, .* delete it when the job is completed/) },
    })
    expect(await jobs.get(acme, done.job_id)).toEqual(replacing)
  })

  it('a job that fails after it began to write leaves nothing, and what was there before stays', async () => {
    const list = async (uri: string) =>
      (await node.request('GET', `/api/v1/resources?uri=${encodeURIComponent(uri)}`)).body.results as { id: string }[]
    const done = await ingest('halfway.txt', 'A text that is there.', { uri: 'file:///halfway.txt' })
    const { settled: _settled, ...record } = (await jobs.get(acme, done.job_id))!
    // The chunk is taken, the entity is refused for its name.
    const file = { ...record.file!, name: 'x'.repeat(2000) }
    for (const [job_id, uri, left] of [
      ['halfway-same', 'file:///halfway.txt', 1],
      ['halfway-new', 'file:///never.txt', 0],
    ] as const) {
      await jobs.enqueue({ ...record, job_id, uri, file, status: 'queued', attempts: 0 })
      expect(await finished(job_id)).toMatchObject({ status: 'failed', stage: 'write' })
      expect((await list(uri)).length).toBe(left)
    }
    // Once what was wrong is right, it can be done over, and what was taken back comes again.
    await jobs.update((await jobs.get(acme, 'halfway-new'))!, () => ({ file: record.file! }))
    await request(`${url}/jobs/halfway-new/retry`, 'POST')
    expect((await finished('halfway-new')).status).toBe('completed')
    expect((await list('file:///never.txt')).length).toBe(1)
  })
})

describe('clients that hold on to what they took', () => {
  const IDLE_MS = 1500
  let guarded: RunningGateway
  beforeAll(async () => {
    const config = testConfig(parts.folder, {
      ...env,
      PERCOLATE_UPLOAD_IDLE_MS: String(IDLE_MS),
      PERCOLATE_UPLOADS_MAX: '2',
      PERCOLATE_UPLOADS_PER_TENANT_MAX: '1',
      PERCOLATE_UPLOADS_WAITING_MAX: '20',
      PERCOLATE_REQUEST_READ_MS: '2000',
    })
    guarded = await startGateway({ config, logger, time: systemTime, stream, objects })
  })
  afterAll(() => guarded.stop())

  const HEADERS = (tenant: string, more = 'Content-Length: 100000') =>
    `POST /upload HTTP/1.1\r\nHost: x\r\nX-Tenant-ID: ${tenant}\r\nContent-Type: multipart/form-data; boundary=b\r\n${more}\r\n\r\n`
  const FIELD = '--b\r\nContent-Disposition: form-data; name="category"\r\n\r\nletters\r\n'
  const FILE = '--b\r\nContent-Disposition: form-data; name="file"; filename="x.txt"\r\n\r\n'
  /** A raw connection that sends something and then nothing. */
  function hold(sent: string, options: { end?: boolean; drip?: string; port?: number } = {}) {
    const socket = connect({ port: options.port ?? guarded.port, host: '127.0.0.1', allowHalfOpen: true })
    const state = { sent, closed: false, answer: '', socket }
    socket.on('error', () => {})
    socket.on('data', data => {
      state.answer += data
    })
    socket.on('end', () => socket.end())
    socket.on('close', () => {
      state.closed = true
    })
    socket.write(sent)
    if (options.end) socket.end()
    const { drip } = options
    const timer = drip ? setInterval(() => socket.writable && socket.write(drip), 100) : undefined
    socket.on('close', () => clearInterval(timer))
    return state
  }
  const good = (tenant: string) => {
    const form = new FormData()
    form.set('file', new Blob(['a file that comes as it should']), 'good.txt')
    return request(`http://127.0.0.1:${guarded.port}/upload`, 'POST', { tenant, body: form })
  }
  const quiet = [
    ['', ''],
    ['half of the headers', 'POST /upload HTTP/1.1\r\nX-Tenant-ID: mallory\r\n'],
    ['no body', HEADERS('mallory')],
    ['a field', HEADERS('mallory') + FIELD],
    ['no byte of the file', HEADERS('mallory') + FILE],
    ['junk instead of a form', `${HEADERS('mallory')}junk`],
  ] as const

  it('silent before the file: holds no place, and gets 408 in time', async () => {
    const held = [...quiet, ...quiet].map(([, sent]) => hold(sent))
    await systemTime.sleep(100)
    expect((await good('acme')).status).toBe(202)
    expect((await good('mallory')).status).toBe(202)
    // Those with a whole head have the idle time; the others a part of the time for a request, which a busy machine may use up.
    expect(held.filter(({ sent, closed }) => closed && sent.startsWith(HEADERS('mallory')))).toEqual([])
    await eventually('all are closed', async () => held.every(({ closed }) => closed))
    for (const { answer } of held) expect(answer).toMatch(/^HTTP\/1.1 408 /)
  })

  it('silent, dripping or half open in the file: gives way when others wait, and is dropped when none does', async () => {
    const before = await objectsLeft()
    const holding = (tenant: string) => [
      hold(`${HEADERS(tenant)}${FILE}ten bytes `),
      hold(`${HEADERS(tenant)}${FILE}ten bytes `, { drip: 'x' }),
    ]
    const held = ['mallory', 'eve', 'trudy'].flatMap(holding)
    await systemTime.sleep(100)
    expect((await good('acme')).status).toBe(202)
    await eventually('all are closed', async () => held.every(({ closed }) => closed))
    for (const { answer } of held) expect(answer).toMatch(/^HTTP\/1.1 408 [\s\S]*UPLOAD_STALLED/)
    const alone = [
      hold(`${HEADERS('mallory')}${FILE}ten bytes `, { drip: 'x' }),
      hold(
        `${HEADERS('mallory', 'Transfer-Encoding: chunked')}${(FILE.length + 10).toString(16)}\r\n${FILE}ten bytes \r\n`,
      ),
      hold(`${HEADERS('eve')}${FILE}ten bytes \r\n${FIELD}`),
      hold(`${HEADERS('ivan')}${FILE}ten bytes `, { end: true }),
    ]
    await eventually('all are closed', async () => alone.every(({ closed }) => closed))
    for (const { answer } of alone.slice(0, 3)) expect(answer).toMatch(/^HTTP\/1.1 408 [\s\S]*UPLOAD_STALLED/)
    await eventually('nothing is kept', async () => (await objectsLeft()) === before + 1)
  })

  it('slow, though never silent: the slowest gives way to those who wait, and only to them; one that would free nobody stays', async () => {
    // Far above the pace at which an upload is dropped when nobody waits, far below that of an ordinary connection.
    const slow = ['mallory', 'eve'].map(tenant =>
      hold(`${HEADERS(tenant)}${FILE}ten bytes `, { drip: 'y'.repeat(400) }),
    )
    await systemTime.sleep(IDLE_MS * 1.5)
    expect(slow.map(({ closed }) => closed)).toEqual([false, false])
    expect((await good('acme')).status).toBe(202)
    await eventually('one gave way', async () => slow.filter(({ closed }) => closed).length === 1)
    const gone = slow.find(({ closed }) => closed)!
    expect(gone.answer).toMatch(
      /^HTTP\/1.1 408 [\s\S]*UPLOAD_STALLED[\s\S]*PERCOLATE_UPLOAD_BYTES_PER_SECOND_MIN_WHEN_BUSY/,
    )
    // Its own tenant waits for its share: nobody else's upload would help it.
    const stays = slow.find(({ closed }) => !closed)!
    const fast = ['bob', 'bob'].map(tenant =>
      hold(`${HEADERS(tenant, 'Content-Length: 100000000')}${FILE}`, { drip: 'z'.repeat(50_000) }),
    )
    await systemTime.sleep(IDLE_MS)
    expect([stays, ...fast].map(({ closed }) => closed)).toEqual([false, false, false])
    for (const { socket } of [stays, ...fast]) socket.destroy()
  })

  it('of many tenants, each faster than who gives way at once: a slower one gives way all the same when others have waited, and nothing of it is kept', async () => {
    const before = await objectsLeft()
    // Above PERCOLATE_UPLOAD_BYTES_PER_SECOND_MIN_WHEN_BUSY, 64 KiB/s.
    const held = Array.from({ length: 5 }, (_, n) =>
      hold(`${HEADERS(`slow-${n}`, 'Content-Length: 500000000')}${FILE}${n === 0 ? '' : 'x'.repeat(100_000 * n)}`, {
        drip: 'y'.repeat(10_000 + 200 * n),
      }),
    )
    await systemTime.sleep(IDLE_MS / 2)
    expect((await good('acme')).status).toBe(202)
    const gone = held.filter(({ closed }) => closed)
    expect(gone.length).toBeGreaterThan(0)
    expect(gone.length).toBeLessThan(held.length)
    for (const { answer } of gone)
      expect(answer).toMatch(/^HTTP\/1.1 408 [\s\S]*UPLOAD_STALLED[\s\S]*slower half[\s\S]*nothing was kept/)
    for (const { socket } of held) socket.destroy()
    await eventually('nothing is kept', async () => (await objectsLeft()) === before + 1)
  })

  it('that never ends: is cut off when its time is over', async () => {
    const config = testConfig(parts.folder, {
      ...env,
      PERCOLATE_UPLOAD_IDLE_MS: '10000',
      PERCOLATE_UPLOAD_MS_MAX: '1000',
    })
    const bounded = await startGateway({ config, logger, time: systemTime, stream, objects })
    const held = hold(`${HEADERS('acme', 'Content-Length: 100000000')}${FILE}`, {
      drip: 'z'.repeat(5000),
      port: bounded.port,
    })
    await eventually('it is closed', async () => held.closed)
    expect(held.answer).toMatch(/^HTTP\/1.1 408 [\s\S]*UPLOAD_STALLED[\s\S]*PERCOLATE_UPLOAD_MS_MAX/)
    await bounded.stop()
  })

  it('a tenant fills no more than half of the queue, and another comes in', async () => {
    const held = Array.from({ length: 22 }, () => hold(HEADERS('mallory')))
    await eventually(
      'the rest is refused',
      async () => held.filter(({ answer }) => answer.includes(' 503 ')).length === 11,
    )
    expect((await good('mallory')).body.code).toBe('TOO_BUSY')
    expect((await good('acme')).status).toBe(202)
    for (const { socket } of held) socket.destroy()
  })

  it('a body that does not come ends a request to the job routes', async () => {
    const held = hold(
      'POST /jobs/x/retry HTTP/1.1\r\nHost: x\r\nX-Tenant-ID: acme\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{',
    )
    await eventually('it is closed', async () => held.closed)
  })
})

describe('changes', () => {
  it('leave the outbox for the sync stream', async () => {
    await node.request('POST', '/api/v1/resources', { tenant: 'synced', body: { content: 'to be published' } })
    await eventually(
      'the sync stream has it',
      async () => (await stream.depth(subjects.syncStream(parseTenantId('synced'))).catch(() => 0)) === 1,
    )
    await eventually('the outbox is empty', async () =>
      /percolate_outbox_entries 0/.test((await node.request('GET', '/metrics')).body),
    )
  })
})
