import { readdir } from 'node:fs/promises'
import { request as httpRequest } from 'node:http'
import { connect } from 'node:net'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { text } from 'node:stream/consumers'
import {
  CreateBucketCommand,
  ListMultipartUploadsCommand,
  ListObjectsV2Command,
  PutObjectCommand,
  S3Client,
} from '@aws-sdk/client-s3'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { timeoutSignal } from '../../src/base/timeout.ts'
import type { EmbeddedS3 } from '../../src/objects/embedded/server.ts'
import { s3Contract } from '../contract/s3.ts'
import { connectS3, listed, remove, secrets, startTestS3, tempFolder } from '../support/running.ts'

let folder: string
let server: EmbeddedS3
const clientOf = (overrides: { accessKeyId?: string; secretAccessKey?: string } = {}) =>
  new S3Client({
    endpoint: server.endpoint,
    region: secrets.region,
    forcePathStyle: true,
    maxAttempts: 1,
    credentials: { accessKeyId: secrets.accessKey, secretAccessKey: secrets.secretKey, ...overrides },
  })

beforeAll(async () => {
  folder = await tempFolder()
  server = await startTestS3(folder)
})
afterAll(async () => {
  await server.stop()
  await remove(folder)
})

s3Contract('the embedded endpoint', async () => {
  const client = clientOf()
  await client.send(new CreateBucketCommand({ Bucket: 'contract' }))
  return { client, bucket: 'contract' }
})

describe('the embedded endpoint', () => {
  const status = (path: string, headers: Record<string, string> = {}, method = 'GET') =>
    fetch(server.endpoint + path, { method, headers }).then(answer => answer.status)

  it('refuses requests that are unsigned, signed with other keys, or altered', async () => {
    expect(await status('/contract')).toBe(403)
    expect(await status('/contract', { authorization: 'Basic x' })).toBe(400)
    await expect(
      clientOf({ secretAccessKey: 'wrong' }).send(new ListObjectsV2Command({ Bucket: 'contract' })),
    ).rejects.toMatchObject({ name: 'SignatureDoesNotMatch' })
    await expect(
      clientOf({ accessKeyId: 'wrong' }).send(new ListObjectsV2Command({ Bucket: 'contract' })),
    ).rejects.toMatchObject({ name: 'InvalidAccessKeyId' })
  })

  it('answers an unsigned put before its body has come, and takes nothing of that apart', async () => {
    const socket = connect(Number(new URL(server.endpoint).port), '127.0.0.1')
    socket.write(
      `PUT /contract/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n${'1\r\na\r\n'.repeat(100_000)}`,
    )
    const answer = await text(socket)
    expect(answer).toMatch(/^HTTP\/1\.1 403 /)
    expect(answer.toLowerCase()).toContain('connection: close')
  })

  it('answers what expects something that it does not do as any other request', async () => {
    const socket = connect(Number(new URL(server.endpoint).port), '127.0.0.1')
    const get = (more: string) => `GET /contract/x HTTP/1.1\r\nHost: x\r\nExpect: tea\r\n${more}\r\n`
    socket.write(`${get('')}${get('Connection: close\r\n')}`)
    const answer = await text(socket)
    expect(answer.match(/HTTP\/1\.1 417 /g)).toHaveLength(2)
    expect(answer).toContain('<Code>ExpectationFailed</Code>')
  })

  it('leaves no file behind when a put is cut off or its checksum is wrong', async () => {
    const files = () => readdir(join(folder, 's3', 'files'))
    const before = (await files()).length
    const client = clientOf()
    await expect(
      client.send(new PutObjectCommand({ Bucket: 'contract', Key: 'bad', Body: 'body', ChecksumCRC32: 'AAAAAA==' })),
    ).rejects.toMatchObject({ name: 'BadDigest' })
    const slow = Readable.from(
      (async function* () {
        for (let n = 0; n < 100; n++) {
          yield Buffer.alloc(10_000)
          await new Promise(resolve => setTimeout(resolve, 10))
        }
      })(),
    )
    const put = new PutObjectCommand({ Bucket: 'contract', Key: 'cut', Body: slow, ContentLength: 1_000_000 })
    await expect(client.send(put, { abortSignal: timeoutSignal(200) })).rejects.toThrow()
    await new Promise(resolve => setTimeout(resolve, 200))
    expect((await files()).length).toBe(before)
  })

  it('through the adapter: an upload that is aborted, or whose body fails, leaves neither object nor parts', async () => {
    const store = connectS3(server.endpoint)
    await store.prepare()
    const slow = (fail: boolean) =>
      Readable.from(
        (async function* () {
          for (let n = 0; n < 30; n++) {
            yield Buffer.alloc(1024 * 1024)
            await new Promise(resolve => setTimeout(resolve, 10))
          }
          if (fail) throw new Error('the client hung up')
        })(),
      )
    await expect(store.put('failing', slow(true), {})).rejects.toThrow(/hung up/)
    const controller = new AbortController()
    setTimeout(() => controller.abort(new Error('changed my mind')), 150)
    await expect(store.put('aborted', slow(false), { signal: controller.signal })).rejects.toThrow(/changed my mind/)
    const { Uploads } = await clientOf().send(new ListMultipartUploadsCommand({ Bucket: 'uploads' }))
    expect(Uploads ?? []).toEqual([])
    expect(await listed(store, '')).toEqual([])
  })

  it('lists more than a page, and folders each once', async () => {
    const store = connectS3(server.endpoint)
    await store.prepare()
    const names = Array.from({ length: 1100 }, (_, n) => `many/${String(n % 550).padStart(4, '0')}/${n}`)
    const client = clientOf()
    const put = (Key: string) => client.send(new PutObjectCommand({ Bucket: 'uploads', Key, Body: 'x' }))
    for (let at = 0; at < names.length; at += 50) await Promise.all(names.slice(at, at + 50).map(put))
    expect(await listed(store, 'many/')).toEqual([...names].sort())
    const folders: string[] = []
    for await (const folder of store.folders('many/')) folders.push(folder)
    expect(folders).toEqual([...new Set(names.map(name => name.split('/')[1]!))].sort())
    for (let at = 0; at < names.length; at += 50)
      await Promise.all(names.slice(at, at + 50).map(name => store.delete(name)))
  })

  it('answers garbage with an error, not a crash', async () => {
    await new Promise<void>(resolve => {
      const request = httpRequest(
        `${server.endpoint}/%zz`,
        { method: 'PUT', headers: { 'content-length': '10' } },
        () => resolve(),
      )
      request.on('error', () => resolve())
      request.end('0123456789')
    })
    expect(await status('/')).toBe(403)
  })
})

it('takes nothing that would leave less than the reserve free, large or small, says why, and keeps nothing', async () => {
  const full = await tempFolder()
  // More than any disk has.
  const tight = await startTestS3(full, { reserveBytes: 1024 ** 5 })
  const client = connectS3(tight.endpoint)
  try {
    await client.prepare()
    for (const bytes of [10, 12 * 1024 * 1024]) {
      const refused = client.put('k', Readable.from([Buffer.alloc(bytes)]), {})
      await expect(refused).rejects.toMatchObject({
        code: 'OBJECT_STORE_UNAVAILABLE',
        message: expect.stringMatching(/disk of the object store is full/),
      })
    }
    expect(await listed(client, '')).toEqual([])
    expect(await readdir(join(full, 's3', 'files'))).toEqual([])
  } finally {
    client.close()
    await tight.stop()
    await remove(full)
  }
})
