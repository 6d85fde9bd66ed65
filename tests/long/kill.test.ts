import { join } from 'node:path'
import { expect, it } from 'vitest'
import { killSeries } from '../../test-topology/kill-series.ts'
import { remove, tempFolder } from '../support/running.ts'

it('thirty kills -9 of the whole process group under load lose nothing that was acknowledged', async () => {
  const folder = await tempFolder()
  const report = await killSeries({
    dataDir: join(folder, 'data'),
    rounds: 30,
    writers: 8,
    loadMsMax: 5000,
    say: line => console.log(line),
  })
  console.log(
    `${report.kills} kills, ${report.acknowledgedWrites} acknowledged writes, ${report.acknowledgedUploads} acknowledged uploads, ${report.lost.length} lost, ${report.problems.length} index problems, ${report.unfinishedJobs.length} unfinished jobs`,
  )
  expect({ lost: report.lost, problems: report.problems, unfinished: report.unfinishedJobs }).toEqual({
    lost: [],
    problems: [],
    unfinished: [],
  })
  await remove(folder)
})
