import { EventEmitter } from 'node:events'
import { Metadata } from '@grpc/grpc-js'
import { expect, it } from 'vitest'
import { peerMethods } from '../../../src/api/grpc/peer-server.ts'
import { parseTenantId } from '../../../src/base/ids.ts'
import { createLogger } from '../../../src/base/logger.ts'
import { PEER_HEADER, PeerAuth } from '../../../src/replication/auth.ts'
import type { PeerHandlers, TransferPart } from '../../../src/replication/peer.ts'
import { peerPair } from '../../support/peer-pair.ts'

const PART_BYTES = 512 * 1024

function metadataOf(): Metadata {
  const metadata = new Metadata()
  metadata.set(PEER_HEADER, new PeerAuth('secret', 'n2').token('n1', parseTenantId('acme')))
  return metadata
}

it('a receiver of a copy that takes nothing is cut off, and the one that sends it is done with it', async () => {
  let sent = 0
  let end = () => {}
  const ended = new Promise<void>(resolve => {
    end = resolve
  })
  async function* transfer(): AsyncGenerator<TransferPart> {
    try {
      for (;;) {
        sent++
        yield { records: [{ key: Buffer.from('key'), record: Buffer.alloc(PART_BYTES), vectors: [] }] }
      }
    } finally {
      end()
    }
  }
  const { n1, stop } = await peerPair({ transfer }, { stallMsMax: 100 })
  const parts = n1.transfer(parseTenantId('acme'), 'any', undefined)[Symbol.asyncIterator]()
  try {
    expect((await parts.next()).done).toBe(false)
    await ended
    // What was on its way comes still, and then the end.
    const rest = async () => {
      while (!(await parts.next()).done);
    }
    await expect(rest()).rejects.toMatchObject({ code: 'NODE_UNAVAILABLE' })
    expect(sent).toBeLessThan(50)
  } finally {
    stop()
  }
})

it('a copy whose floor moved while it was sent is no copy for a receiver that does not look at that', async () => {
  const floor = { clock: { wall: 1, counter: 0, origin: 'floor' }, vector: new Map() }
  async function* transfer(): AsyncGenerator<TransferPart> {
    yield {
      head: { tenant: 'acme', incarnation: 'any', vector: new Map(), floor: undefined, skipped: [], source: 'n1' },
    }
    yield { end: { records: 0, floor } }
  }
  const send = async (request: object): Promise<string | undefined> => {
    let error: { details?: string } | undefined
    const call = Object.assign(new EventEmitter(), {
      request: { tenant: 'acme', incarnation: 'any', ...request },
      metadata: metadataOf(),
      write: () => true,
      end: () => call.emit('ended'),
    })
    const methods = peerMethods({
      handlers: { transfer } as unknown as PeerHandlers,
      auth: new PeerAuth('secret', 'n1'),
      logger: createLogger({ level: 'silent', role: 'test' }),
    }) as unknown as Record<string, (call: unknown) => void>
    await new Promise<void>(resolve => {
      call.once('ended', resolve)
      call.once('error', failed => {
        error = failed
        resolve()
      })
      methods.Transfer!(call)
    })
    return error?.details
  }
  expect(await send({})).toMatch(/Garbage was collected/)
  expect(await send({ reads_end_floor: true })).toBeUndefined()
})
