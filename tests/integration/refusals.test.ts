import { expect, it } from 'vitest'
import { createLogger } from '../../src/base/logger.ts'
import { REFUSAL_LINES_MAX } from '../../src/base/refusals.ts'
import { systemTime } from '../../src/base/time.ts'
import { startNode } from '../../src/node.ts'
import { request, tempFolder, testConfig } from '../support/running.ts'

it('a flood of what a node refuses makes its log no longer than the bound, and none of it is lost without a number', async () => {
  const lines: { code?: string; leftOut?: number }[] = []
  const logger = createLogger({
    level: 'debug',
    role: 'test',
    destination: { write: (line: string) => lines.push(JSON.parse(line)) },
  })
  const node = await startNode({ config: testConfig(await tempFolder()), logger, time: systemTime, stream: undefined })
  const url = `http://127.0.0.1:${node.httpPort}/api/v1/resources/x`
  const refused = REFUSAL_LINES_MAX * 6
  for (let n = 0; n < refused; n += 20)
    await Promise.all(Array.from({ length: 20 }, () => request(url, 'GET', { tenant: undefined })))
  expect((await request(url, 'GET')).body.code).toBe('NOT_FOUND')
  const { body: metrics } = await request(`http://127.0.0.1:${node.httpPort}/metrics`, 'GET')
  await node.stop()
  const of = (code: string) => lines.filter(line => line.code === code)
  const summaries = of('TENANT_MISSING').filter(({ leftOut }) => leftOut !== undefined)
  const written = of('TENANT_MISSING').length - summaries.length
  const leftOut = summaries.reduce((sum, line) => sum + line.leftOut!, 0)
  expect(summaries.length).toBeGreaterThan(0)
  expect(written).toBeLessThanOrEqual(REFUSAL_LINES_MAX * (summaries.length + 1))
  expect(written + leftOut).toBe(refused)
  // What is rare is told beside it.
  expect(of('NOT_FOUND')).toHaveLength(1)
  expect(metrics).toContain(`percolate_errors_total{code="TENANT_MISSING"} ${refused}`)
})
