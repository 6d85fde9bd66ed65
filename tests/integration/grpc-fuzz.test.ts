import { expect, it } from 'vitest'
import { planOf, runPlan } from '../fuzz/connection.ts'
import { eventually, startFileNode } from '../support/running.ts'

/** Clients of a seed, as `npm run test:long` has them against a process (tests/fuzz). */
const SEED = 1
const CLIENTS = 600
const AT_ONCE = 40

const node = await startFileNode()

it('lets go of the calls of clients that break the protocol between them, and go', async () => {
  let next = 0
  const client = async (): Promise<void> => {
    while (next < CLIENTS) {
      const plan = planOf(SEED, next++)
      if (plan.target === 'grpc') expect(await runPlan(plan, node.grpcPort)).toBe(true)
    }
  }
  await Promise.all(Array.from({ length: AT_ONCE }, client))
  const now = async (name: string): Promise<string | undefined> =>
    new RegExp(`^${name} (\\d+)`, 'm').exec(await (await fetch(`${node.url}/metrics`)).text())?.[1]
  await eventually(
    'nobody is there',
    async () => (await now('percolate_connections{server="grpc"}'.replace(/[{}]/g, '\\$&'))) === '0',
    10_000,
  )
  await eventually('no call is open', async () => (await now('percolate_grpc_calls')) === '0')
})
