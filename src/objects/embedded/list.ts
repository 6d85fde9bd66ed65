import { S3Error } from './errors.ts'
import type { DiskStore } from './store.ts'
import type { XmlValue } from './xml.ts'

/** ListObjectsV2: https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html */
export async function listObjects(store: DiskStore, bucket: string, query: URLSearchParams): Promise<XmlValue> {
  const prefix = query.get('prefix') ?? ''
  const delimiter = query.get('delimiter') ?? ''
  const max = Math.min(1000, Number(query.get('max-keys') ?? 1000))
  if (!Number.isInteger(max) || max < 0) throw new S3Error('InvalidArgument', 'max-keys must be a whole number.')
  const token = query.get('continuation-token')
  const startAfter =
    token === null ? (query.get('start-after') ?? undefined) : Buffer.from(token, 'base64url').toString()
  const encode =
    query.get('encoding-type') === 'url' ? (text: string) => encodeURIComponent(text) : (text: string) => text
  const contents: XmlValue[] = []
  const groups: string[] = []
  let last = startAfter
  let truncated = false
  for await (const [name, object] of store.objects(bucket, prefix, startAfter)) {
    const cut = delimiter === '' ? -1 : name.indexOf(delimiter, prefix.length)
    const group = cut < 0 ? undefined : name.slice(0, cut + delimiter.length)
    // A group that the last page ended with goes on into this one; it was listed.
    if (group !== undefined && (groups.at(-1) === group || startAfter?.startsWith(group))) continue
    if (contents.length + groups.length >= max) {
      truncated = max > 0
      break
    }
    last = group === undefined ? name : group
    if (group !== undefined) groups.push(group)
    else
      contents.push({
        Key: encode(name),
        LastModified: new Date(object.modifiedAtMs).toISOString(),
        ETag: `"${object.etag}"`,
        Size: object.bytes,
        StorageClass: 'STANDARD',
      })
  }
  return {
    Name: bucket,
    Prefix: encode(prefix),
    Delimiter: delimiter === '' ? undefined : encode(delimiter),
    MaxKeys: max,
    KeyCount: contents.length + groups.length,
    IsTruncated: truncated,
    NextContinuationToken: truncated && last !== undefined ? Buffer.from(last).toString('base64url') : undefined,
    Contents: contents,
    CommonPrefixes: groups.map(group => ({ Prefix: encode(group) })),
  }
}
