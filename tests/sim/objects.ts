import { Readable } from 'node:stream'
import { PercolateError } from '../../src/base/errors.ts'
import type { ObjectInfo, ObjectStore } from '../../src/objects/port.ts'

/** An object store in memory, for snapshots in a simulated life. It never fails; an object is there when its whole body has been read. */
export class SimObjects implements ObjectStore {
  readonly objects = new Map<string, Buffer>()

  async prepare(): Promise<void> {}

  async put(key: string, body: Readable): Promise<void> {
    const chunks: Buffer[] = []
    for await (const chunk of body) chunks.push(chunk as Buffer)
    this.objects.set(key, Buffer.concat(chunks))
  }

  async get(key: string): Promise<{ body: Readable; info: ObjectInfo }> {
    const data = this.objects.get(key)
    if (!data) throw new PercolateError('NOT_FOUND', `There is no object ${key}.`)
    return { body: Readable.from([data]), info: infoOf(key, data) }
  }

  async head(key: string): Promise<ObjectInfo | undefined> {
    const data = this.objects.get(key)
    return data && infoOf(key, data)
  }

  async delete(key: string): Promise<void> {
    this.objects.delete(key)
  }

  async *list(prefix: string): AsyncIterable<ObjectInfo> {
    for (const [key, data] of this.#under(prefix)) yield infoOf(key, data)
  }

  async *folders(prefix: string): AsyncIterable<string> {
    const names = this.#under(prefix).map(([key]) => key.slice(prefix.length).split('/'))
    yield* new Set(names.flatMap(([name, ...rest]) => (rest.length > 0 ? name! : [])))
  }

  async ping(): Promise<void> {}

  close(): void {}

  #under(prefix: string): [string, Buffer][] {
    return [...this.objects].filter(([key]) => key.startsWith(prefix)).sort(([a], [b]) => (a < b ? -1 : 1))
  }
}

const infoOf = (key: string, data: Buffer): ObjectInfo => ({ key, bytes: data.length, contentType: undefined })
