import type { KvBucket, StreamPort } from '../../src/stream/port.ts'

/** What is done before a message or a record is stored, and after it is, before its writer hears of it: an error stands for a request or an answer that was lost. `key`: of a record; a message's id. */
export interface Interposed {
  before?(what: 'publish' | 'put' | 'update', key: string, value: Buffer): Promise<void> | void
  after?(what: 'publish' | 'put' | 'update', key: string, value: Buffer): Promise<void> | void
}

/** A stream whose writes somebody stands between. `hooks` may be changed at any time. */
export function interposed(stream: StreamPort, hooks: Interposed): StreamPort {
  const around = async <T>(
    what: 'publish' | 'put' | 'update',
    key: string,
    value: Buffer,
    write: () => Promise<T>,
  ): Promise<T> => {
    await hooks.before?.(what, key, value)
    const result = await write()
    await hooks.after?.(what, key, value)
    return result
  }
  const publish: StreamPort['publish'] = (subject, data, id) =>
    around('publish', id, data, () => stream.publish(subject, data, id))
  const bucket: StreamPort['bucket'] = async (...args) => {
    const opened = await stream.bucket(...args)
    const put: KvBucket['put'] = (key, value) => around('put', key, value, () => opened.put(key, value))
    const update: KvBucket['update'] = (key, value, revision) =>
      around('update', key, value, () => opened.update(key, value, revision))
    return overlaid(opened, { put, update })
  }
  return overlaid(stream, { publish, bucket })
}

/** An object with other methods in place of some of its own. */
function overlaid<T extends object>(object: T, methods: Partial<T>): T {
  return new Proxy(object, {
    get: (target, name) => {
      const value = Reflect.get(name in methods ? methods : target, name)
      return typeof value === 'function' ? value.bind(target) : value
    },
  })
}
