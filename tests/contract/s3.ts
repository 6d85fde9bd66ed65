import { randomBytes } from 'node:crypto'
import {
  AbortMultipartUploadCommand,
  CompleteMultipartUploadCommand,
  CopyObjectCommand,
  CreateMultipartUploadCommand,
  DeleteObjectCommand,
  DeleteObjectsCommand,
  GetObjectCommand,
  HeadObjectCommand,
  ListMultipartUploadsCommand,
  ListObjectsV2Command,
  ListPartsCommand,
  PutObjectCommand,
  type S3Client,
  UploadPartCommand,
} from '@aws-sdk/client-s3'
import { beforeAll, describe, expect, it } from 'vitest'

const MIB = 1024 * 1024

/** What Percolate needs of an S3 endpoint; the embedded one passes it, and any other must. `bucket` exists and is empty. */
export function s3Contract(name: string, connect: () => Promise<{ client: S3Client; bucket: string }>): void {
  describe(`S3: ${name}`, () => {
    let client: S3Client
    let Bucket: string
    beforeAll(async () => {
      const connected = await connect()
      client = connected.client
      Bucket = connected.bucket
    })
    const put = (Key: string, Body: string | Buffer, more: object = {}) =>
      client.send(new PutObjectCommand({ Bucket, Key, Body, ...more }))
    const get = async (Key: string, more: object = {}) => {
      const answer = await client.send(new GetObjectCommand({ Bucket, Key, ...more }))
      return { ...answer, bytes: Buffer.from(await answer.Body!.transformToByteArray()) }
    }
    const code = (error: unknown) => (error as { name: string }).name

    it.each(['plain', 'with space', 'a/b/c', 'a/../b', 'ünïcödé/😀', "q?&=+%#'(!*)~", '.', 'nul-free\u0001'])(
      'keeps an object under the key %j',
      async key => {
        const body = randomBytes(1000)
        await put(key, body, { ContentType: 'text/x-test', Metadata: { who: 'me' } })
        const { bytes, ContentType, Metadata, ETag } = await get(key)
        expect(bytes.equals(body)).toBe(true)
        expect([ContentType, Metadata]).toEqual(['text/x-test', { who: 'me' }])
        const head = await client.send(new HeadObjectCommand({ Bucket, Key: key }))
        expect([head.ContentLength, head.ETag]).toEqual([1000, ETag])
        await client.send(new DeleteObjectCommand({ Bucket, Key: key }))
        await expect(get(key)).rejects.toSatisfy(error => code(error) === 'NoSuchKey')
      },
    )

    it('keeps an empty object, and overwrites', async () => {
      await put('over', '')
      expect((await get('over')).bytes.length).toBe(0)
      await put('over', 'new')
      expect((await get('over')).bytes.toString()).toBe('new')
    })

    it('puts conditionally', async () => {
      await put('once', '1', { IfNoneMatch: '*' })
      await expect(put('once', '2', { IfNoneMatch: '*' })).rejects.toSatisfy(
        error => code(error) === 'PreconditionFailed',
      )
      expect((await get('once')).bytes.toString()).toBe('1')
    })

    it('serves ranges', async () => {
      await put('ranged', '0123456789')
      expect((await get('ranged', { Range: 'bytes=2-4' })).bytes.toString()).toBe('234')
      expect((await get('ranged', { Range: 'bytes=-3' })).bytes.toString()).toBe('789')
      expect((await get('ranged', { Range: 'bytes=8-' })).ContentRange).toBe('bytes 8-9/10')
      await expect(get('ranged', { Range: 'bytes=10-' })).rejects.toSatisfy(error => code(error) === 'InvalidRange')
    })

    it('puts an object together from parts, in order, and reads over their borders', async () => {
      const Key = 'parts'
      const { UploadId } = await client.send(new CreateMultipartUploadCommand({ Bucket, Key, ContentType: 'x/y' }))
      const bodies = [randomBytes(5 * MIB), randomBytes(5 * MIB + 7), randomBytes(11)]
      const Parts = []
      for (const n of [2, 1, 3]) {
        const { ETag } = await client.send(
          new UploadPartCommand({ Bucket, Key, UploadId, PartNumber: n, Body: bodies[n - 1]! }),
        )
        Parts[n - 1] = { ETag, PartNumber: n }
      }
      expect((await client.send(new ListPartsCommand({ Bucket, Key, UploadId }))).Parts?.length).toBe(3)
      await expect(get(Key)).rejects.toSatisfy(error => code(error) === 'NoSuchKey')
      await client.send(new CompleteMultipartUploadCommand({ Bucket, Key, UploadId, MultipartUpload: { Parts } }))
      const whole = Buffer.concat(bodies)
      expect((await get(Key)).bytes.equals(whole)).toBe(true)
      expect(
        (await get(Key, { Range: `bytes=${5 * MIB - 2}-${5 * MIB + 1}` })).bytes.equals(
          whole.subarray(5 * MIB - 2, 5 * MIB + 2),
        ),
      ).toBe(true)
      expect((await get(Key)).ContentType).toBe('x/y')
    })

    it('refuses wrong parts, and forgets an aborted upload', async () => {
      const Key = 'aborted'
      const { UploadId } = await client.send(new CreateMultipartUploadCommand({ Bucket, Key }))
      const { ETag } = await client.send(
        new UploadPartCommand({ Bucket, Key, UploadId, PartNumber: 1, Body: randomBytes(100) }),
      )
      await expect(
        client.send(
          new CompleteMultipartUploadCommand({
            Bucket,
            Key,
            UploadId,
            MultipartUpload: { Parts: [{ PartNumber: 2, ETag }] },
          }),
        ),
      ).rejects.toSatisfy(error => code(error) === 'InvalidPart')
      expect(
        (await client.send(new ListMultipartUploadsCommand({ Bucket }))).Uploads?.some(
          upload => upload.UploadId === UploadId,
        ),
      ).toBe(true)
      await client.send(new AbortMultipartUploadCommand({ Bucket, Key, UploadId }))
      expect((await client.send(new ListMultipartUploadsCommand({ Bucket }))).Uploads ?? []).toEqual([])
      await expect(
        client.send(new UploadPartCommand({ Bucket, Key, UploadId, PartNumber: 1, Body: 'x' })),
      ).rejects.toSatisfy(error => code(error) === 'NoSuchUpload')
    })

    it('lists with prefix, delimiter and pages', async () => {
      for (const key of ['l/a', 'l/b/1', 'l/b/2', 'l/c', 'l/d/1', 'm']) await put(key, key)
      const list = (more: object) => client.send(new ListObjectsV2Command({ Bucket, ...more }))
      const grouped = await list({ Prefix: 'l/', Delimiter: '/' })
      expect(grouped.Contents?.map(({ Key }) => Key)).toEqual(['l/a', 'l/c'])
      expect(grouped.CommonPrefixes?.map(({ Prefix }) => Prefix)).toEqual(['l/b/', 'l/d/'])
      const seen: string[] = []
      let ContinuationToken: string | undefined
      do {
        const page = await list({ Prefix: 'l/', MaxKeys: 2, ContinuationToken })
        seen.push(...page.Contents!.map(({ Key }) => Key!))
        ContinuationToken = page.NextContinuationToken
      } while (ContinuationToken)
      expect(seen).toEqual(['l/a', 'l/b/1', 'l/b/2', 'l/c', 'l/d/1'])
      expect((await list({ Prefix: 'l/', StartAfter: 'l/b/1' })).Contents?.[0]?.Key).toBe('l/b/2')
    })

    it('copies, and deletes many at once', async () => {
      await put('from here', 'copy me', { ContentType: 'a/b' })
      await client.send(new CopyObjectCommand({ Bucket, Key: 'to', CopySource: encodeURI(`${Bucket}/from here`) }))
      expect([(await get('to')).bytes.toString(), (await get('to')).ContentType]).toEqual(['copy me', 'a/b'])
      await client.send(
        new DeleteObjectsCommand({
          Bucket,
          Delete: { Objects: [{ Key: 'to' }, { Key: 'from here' }, { Key: 'not there' }] },
        }),
      )
      await expect(get('to')).rejects.toSatisfy(error => code(error) === 'NoSuchKey')
    })
  })
}
