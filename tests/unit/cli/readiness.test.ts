import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { describe, expect, it } from 'vitest'
import { readiness, whatIsAwaited } from '../../../src/cli/readiness.ts'

const answering = async (body: unknown): Promise<{ url: string; stop: () => void }> => {
  const server = createServer((_, response) => response.writeHead(503).end(JSON.stringify(body)))
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, stop: () => server.close() }
}

describe('what a start says of its parts', () => {
  it('names the probes that are not there yet, and parts that do not answer', async () => {
    const probes = [
      { name: 'storage', ok: true },
      { name: 'cluster', ok: false, detail: 'not a member of the cluster yet' },
    ]
    const { url, stop } = await answering({ status: 'not ready', probes })
    const node = await readiness('node', url)
    stop()
    const gateway = await readiness('gateway', url)
    expect(node).toMatchObject({ state: 'not ready', probes })
    expect(gateway.state).toBe('away')
    expect(whatIsAwaited([node, gateway])).toBe('node cluster: not a member of the cluster yet; gateway away')
  })

  it('says nothing when all are ready', () => {
    expect(whatIsAwaited([{ part: 'node', url: '', state: 'ready', probes: [{ name: 'storage', ok: true }] }])).toBe('')
  })
})
