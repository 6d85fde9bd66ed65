import { expect, it } from 'vitest'
import { withFlags } from '../../../src/cli/common.ts'
import { readableLog } from '../../../src/cli/output.ts'

it('a setting is named with its flag, a secret is not', () => {
  expect(withFlags('set PERCOLATE_LEASE_MS.')).toBe('set --lease-ms (PERCOLATE_LEASE_MS).')
  expect(withFlags('set PERCOLATE_CLUSTER_SECRET or PERCOLATE_NO_SUCH.')).toBe(
    'set PERCOLATE_CLUSTER_SECRET or PERCOLATE_NO_SUCH.',
  )
})

it('log lines are readable, on one line, and cannot drive a terminal', () => {
  let text = ''
  const log = readableLog(line => {
    text += line
  })
  log.write(
    '{"level":40,"time":"2026-11-24T21:22:18.819Z","role":"up","pid":1,"part":"node","tenant":"a\\u001b[31m\\nb","msg":"late"}\n',
  )
  log.write('not JSON\n')
  expect(text).toBe('21:22:18 warning node late tenant=a[31m b\nnot JSON\n')
})
