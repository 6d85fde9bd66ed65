/**
 * Loaded into a process under test before its own code (`node --import`), so that it can be stopped at a chosen point and its wall clock can jump while it runs. Percolate itself knows nothing of this: public
 * methods of ports and roles are wrapped from outside. Told by a file (the query of this module's URL names it) that is read on SIGUSR2.
 */
import { readFileSync } from 'node:fs'
import { isMainThread } from 'node:worker_threads'
import { Homes } from '../../src/replication/homes.ts'
import { NatsStream } from '../../src/stream/nats/adapter.ts'
import { TenantPool } from '../../src/tenant/pool.ts'
import { Staging } from '../../src/tenant/staging.ts'
import type { Orders, StopPoint } from './stop-points.ts'

let armed: StopPoint | undefined
let offsetMs = 0

/** The whole process stops here, once, until somebody lets it go on. */
function pass(point: StopPoint): void {
  if (armed !== point) return
  armed = undefined
  process.kill(process.pid, 'SIGSTOP')
}

// biome-ignore lint/suspicious/noExplicitAny: methods of every shape.
type Method = (this: any, ...args: any[]) => any

function wrap<T extends object>(target: T, name: keyof T & string, around: (method: Method) => Method): void {
  const method = target[name] as Method | undefined
  if (typeof method !== 'function') throw new Error(`there is no method ${name} to stop at`)
  Object.defineProperty(target, name, { value: around(method), configurable: true, writable: true })
}

const before =
  (point: StopPoint) =>
  (method: Method): Method =>
    function (...args) {
      pass(point)
      return method.apply(this, args)
    }

const after =
  (point: StopPoint) =>
  (method: Method): Method =>
    function (...args) {
      const result = method.apply(this, args)
      if (!(result instanceof Promise)) {
        pass(point)
        return result
      }
      return result.then(value => {
        pass(point)
        return value
      })
    }

function install(ordersPath: string): void {
  wrap(Homes.prototype, 'assertHome', after('a home has allowed a condition'))
  wrap(Staging.prototype, 'finish', after('a write is planned, not yet on disk'))
  wrap(NatsStream.prototype, 'publish', method =>
    after('the stream has acknowledged an entry')(before('an entry goes to the stream')(method)),
  )
  wrap(TenantPool.prototype, 'exclusive', before('a copy is about to be closed for a change of its files'))
  wrap(
    NatsStream.prototype,
    'bucket',
    method =>
      async function (...args) {
        const bucket = await method.apply(this, args)
        wrap(bucket, 'update', update =>
          after('the directory has taken a record')(before('a record goes to the directory')(update)),
        )
        return bucket
      },
  )
  const wall = Date.now
  Date.now = () => wall() + offsetMs
  process.on('SIGUSR2', () => {
    const orders = JSON.parse(readFileSync(ordersPath, 'utf8')) as Orders
    armed = orders.stopAt
    offsetMs = orders.clockOffsetMs
  })
}

const ordersPath = new URL(import.meta.url).searchParams.get('orders')
if (isMainThread && ordersPath) install(ordersPath)
