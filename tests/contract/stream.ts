import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { PercolateError } from '../../src/base/errors.ts'
import type { KvListOptions, KvUpdate, StoredMessage, StreamPort, StreamSpec } from '../../src/stream/port.ts'

export interface StreamSubject {
  readonly stream: StreamPort
  /** The port through a link that loses the next answer after the server has acted. */
  loseAnswer(): void
  sleep(ms: number): Promise<void>
  stop(): Promise<void>
}

/** What every adapter of the stream port does, the real server's and the simulator's alike: replication relies on each line. */
export function streamContract(name: string, start: () => Promise<StreamSubject>): void {
  describe(`stream port: ${name}`, () => {
    let subject: StreamSubject
    let n = 0
    beforeAll(async () => {
      subject = await start()
    })
    afterAll(() => subject.stop())

    const specOf = (rest: Partial<StreamSpec> = {}): StreamSpec => {
      const id = `contract-${++n}`
      return { name: id, subjects: [`${id}.>`], retention: 'limits', maxAgeMs: 60_000, replicas: 1, ...rest }
    }
    const publish = (spec: StreamSpec, text: string, id = text) =>
      subject.stream.publish(`${spec.name}.ops`, Buffer.from(text), id)
    async function take(spec: StreamSpec, fromSequence: number, count: number): Promise<StoredMessage[]> {
      const done = new AbortController()
      const taken: StoredMessage[] = []
      for await (const message of subject.stream.consume(spec.name, { fromSequence, signal: done.signal })) {
        taken.push(message)
        if (taken.length === count) done.abort()
      }
      return taken
    }
    const texts = (messages: readonly StoredMessage[]) => messages.map(({ data }) => data.toString())

    it('refuses what goes beyond its byte limit, and takes more when older messages were dropped', async () => {
      const spec = specOf({ bytesMax: 4096, discard: 'new' })
      await subject.stream.ensureStream(spec)
      const fill = async (name: string) => {
        for (let n = 0; n < 100; n++) await publish(spec, 'x'.repeat(500), `${name}-${n}`)
      }
      await expect(fill('first')).rejects.toMatchObject({ code: 'STREAM_FULL' })
      const full = (await subject.stream.streamInfo(spec.name))!
      expect(full.bytes).toBeLessThanOrEqual(4096)
      expect(full.messages).toBeGreaterThan(2)
      // Another stream is none the worse for it.
      const other = specOf()
      await subject.stream.ensureStream(other)
      expect((await publish(other, 'fine')).sequence).toBe(1)
      await subject.stream.trimStream(spec.name, full.lastSequence)
      expect(await subject.stream.streamInfo(spec.name)).toMatchObject({
        firstSequence: full.lastSequence,
        lastSequence: full.lastSequence,
        messages: 1,
      })
      expect((await publish(spec, 'more')).sequence).toBe(full.lastSequence + 1)
      expect(texts(await take(spec, 1, 2))[1]).toBe('more')
    })

    it('stores in order, tells what it has, and delivers from any sequence, also what comes later', async () => {
      const spec = specOf()
      await subject.stream.ensureStream(spec)
      await subject.stream.ensureStream(spec)
      expect(await subject.stream.streamInfo(spec.name)).toMatchObject({
        firstSequence: 1,
        lastSequence: 0,
        messages: 0,
        sealed: false,
      })
      expect((await publish(spec, 'a')).sequence).toBe(1)
      expect((await publish(spec, 'b')).sequence).toBe(2)
      const taking = take(spec, 2, 2)
      await subject.sleep(100)
      await publish(spec, 'c')
      const taken = await taking
      expect(texts(taken)).toEqual(['b', 'c'])
      expect(taken.map(({ sequence }) => sequence)).toEqual([2, 3])
      expect(taken[0]!.subject).toBe(`${spec.name}.ops`)
      expect(await subject.stream.streamInfo(spec.name)).toMatchObject({
        firstSequence: 1,
        lastSequence: 3,
        messages: 3,
      })
      expect(await subject.stream.streamNames(spec.name)).toEqual([spec.name])
    })

    it('stores a message id once within its window, and again after it', async () => {
      const spec = specOf({ duplicateWindowMs: 1000 })
      await subject.stream.ensureStream(spec)
      expect(await publish(spec, 'a', 'id-1')).toEqual({ sequence: 1, duplicate: false })
      expect(await publish(spec, 'other', 'id-1')).toEqual({ sequence: 1, duplicate: true })
      await subject.sleep(2500)
      expect(await publish(spec, 'again', 'id-1')).toMatchObject({ sequence: 2, duplicate: false })
    })

    it('makes a publish whose answer was lost harmless to repeat', async () => {
      const spec = specOf()
      await subject.stream.ensureStream(spec)
      subject.loseAnswer()
      await expect(publish(spec, 'a', 'id-a')).rejects.toMatchObject({ code: 'STREAM_UNAVAILABLE' })
      expect((await publish(spec, 'a', 'id-a')).sequence).toBe(1)
      expect(texts(await take(spec, 1, 1))).toEqual(['a'])
      expect((await subject.stream.streamInfo(spec.name))!.messages).toBe(1)
    })

    it('refuses new messages when it is full, rather than drop old ones', async () => {
      const spec = specOf({ messagesMax: 2, discard: 'new' })
      await subject.stream.ensureStream(spec)
      await publish(spec, 'a')
      await publish(spec, 'b')
      await expect(publish(spec, 'c')).rejects.toMatchObject({ code: 'STREAM_FULL' })
      expect(texts(await take(spec, 1, 2))).toEqual(['a', 'b'])
    })

    it('refuses a message that no stream takes', async () => {
      await expect(subject.stream.publish('nobody.listens', Buffer.from('x'), 'x')).rejects.toMatchObject({
        code: 'STREAM_UNAVAILABLE',
      })
    })

    it('seals: nothing more is taken, what is there can be read', async () => {
      const spec = specOf()
      await subject.stream.ensureStream(spec)
      await publish(spec, 'a')
      await subject.stream.sealStream(spec.name)
      await subject.stream.sealStream(spec.name)
      expect(await subject.stream.streamInfo(spec.name)).toMatchObject({ sealed: true, lastSequence: 1 })
      await expect(publish(spec, 'b')).rejects.toMatchObject({ code: 'STREAM_UNAVAILABLE' })
      expect(texts(await take(spec, 1, 1))).toEqual(['a'])
    })

    it('starts over at 1 with another incarnation when it is deleted and made again, and forgets the message ids', async () => {
      const spec = specOf()
      await subject.stream.ensureStream(spec)
      await publish(spec, 'a')
      const before = await subject.stream.streamInfo(spec.name)
      await subject.stream.deleteStream(spec.name)
      await subject.stream.deleteStream(spec.name)
      expect(await subject.stream.streamInfo(spec.name)).toBeUndefined()
      await subject.sleep(20)
      await subject.stream.ensureStream(spec)
      const fresh = await subject.stream.streamInfo(spec.name)
      expect(fresh).toMatchObject({ lastSequence: 0 })
      expect(fresh!.incarnation).not.toBe(before!.incarnation)
      expect(await publish(spec, 'a')).toEqual({ sequence: 1, duplicate: false })
    })

    it('ends a consumer whose stream is deleted', async () => {
      const spec = specOf()
      await subject.stream.ensureStream(spec)
      await publish(spec, 'a')
      const taking = take(spec, 1, 2)
      taking.catch(() => {})
      await subject.sleep(300)
      await subject.stream.deleteStream(spec.name)
      await expect(taking).rejects.toMatchObject({ code: 'STREAM_UNAVAILABLE' })
      await expect(take(spec, 1, 1)).rejects.toMatchObject({ code: 'STREAM_UNAVAILABLE' })
    })

    it('drops what is too old, and says where it begins', async () => {
      const spec = specOf({ maxAgeMs: 1000, duplicateWindowMs: 1000 })
      await subject.stream.ensureStream(spec)
      await publish(spec, 'a')
      await subject.sleep(2500)
      await publish(spec, 'b')
      expect(await subject.stream.streamInfo(spec.name)).toMatchObject({
        firstSequence: 2,
        lastSequence: 2,
        messages: 1,
      })
      expect(texts(await take(spec, 1, 1))).toEqual(['b'])
    })

    it('announces to who listens now', async () => {
      const heard: string[] = []
      const end = subject.stream.listen('contract.*.hint', data => heard.push(data.toString()))
      await subject.sleep(200)
      subject.stream.announce('contract.x.hint', Buffer.from('one'))
      await subject.sleep(200)
      end()
      await subject.sleep(50)
      subject.stream.announce('contract.x.hint', Buffer.from('two'))
      await subject.sleep(200)
      expect(heard).toEqual(['one'])
    })

    it('keeps records that are compared and set', async () => {
      const bucket = await subject.stream.bucket('contract', { maxAgeMs: 0, replicas: 1 })
      expect(await bucket.get('a.x')).toBeUndefined()
      const first = await bucket.update('a.x', Buffer.from('1'), 0)
      expect(first).toBeGreaterThan(0)
      expect(await bucket.update('a.x', Buffer.from('no'), 0)).toBeUndefined()
      const second = await bucket.update('a.x', Buffer.from('2'), first!)
      expect(await bucket.update('a.x', Buffer.from('no'), first!)).toBeUndefined()
      expect(await bucket.get('a.x')).toMatchObject({ revision: second, value: Buffer.from('2') })
      expect(typeof (await bucket.get('a.x'))!.writtenAtMs).toBe('number')
      await bucket.put('a.y', Buffer.from('3'))
      const keys = async (options: KvListOptions) => (await bucket.list('a.*', options)).map(({ key }) => key)
      expect(await keys({ max: 10 })).toEqual(['a.y', 'a.x'])
      expect(await keys({ max: 1 })).toEqual(['a.y'])
      expect(await keys({ max: 10, before: 'a.y' })).toEqual(['a.x'])
      const gone = new PercolateError('CANCELLED', 'The client went away.')
      await expect(keys({ max: 10, signal: AbortSignal.abort(gone) })).rejects.toBe(gone)
      await bucket.delete('a.y')
      expect(await bucket.get('a.y')).toBeUndefined()
      expect(await bucket.update('a.y', Buffer.from('4'), 0)).toBeGreaterThan(0)
    })

    it('tells which bucket it is and how far it has come; one that is made anew is another, and begins at 1', async () => {
      const options = { maxAgeMs: 0, replicas: 1 }
      const bucket = await subject.stream.bucket('contract-life', options)
      await bucket.put('k', Buffer.from('1'))
      const revision = await bucket.put('k', Buffer.from('2'))
      const before = await bucket.state()
      expect(before).toMatchObject({ revision })
      await bucket.delete('k')
      expect(await bucket.state()).toMatchObject({ incarnation: before!.incarnation, revision: revision + 1 })
      await subject.stream.deleteStream('KV_contract-life')
      expect(await bucket.state()).toBeUndefined()
      await expect(bucket.get('k')).rejects.toMatchObject({ code: 'STREAM_UNAVAILABLE' })
      await expect(bucket.update('k', Buffer.from('3'), 0)).rejects.toMatchObject({ code: 'STREAM_UNAVAILABLE' })
      const again = await subject.stream.bucket('contract-life', options)
      expect(await again.state()).toMatchObject({ revision: 0 })
      expect((await again.state())!.incarnation).not.toBe(before!.incarnation)
      expect(await again.update('k', Buffer.from('1'), 0)).toBe(1)
    })

    it('watches a bucket: its state, a mark, then every change', async () => {
      const bucket = await subject.stream.bucket('contract-watch', { maxAgeMs: 0, replicas: 1 })
      await bucket.put('k', Buffer.from('old'))
      await bucket.put('k', Buffer.from('1'))
      const done = new AbortController()
      const seen: string[] = []
      const show = (update: KvUpdate | undefined) =>
        update === undefined ? 'mark' : `${update.key}=${update.value ?? 'gone'}`
      const watching = (async () => {
        for await (const update of bucket.watch(done.signal)) {
          seen.push(show(update))
          if (seen.length === 4) done.abort()
        }
      })()
      await subject.sleep(300)
      await bucket.put('k', Buffer.from('2'))
      await bucket.delete('k')
      await watching
      expect(seen).toEqual(['k=1', 'mark', 'k=2', 'k=gone'])
    })
  })
}
