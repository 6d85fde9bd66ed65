import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { expect, it } from 'vitest'
import { parse } from 'yaml'
import { PACKAGE_FOLDER } from '../../../src/base/version.ts'
import { findProgram } from '../../../src/cluster/cluster.ts'

const { spec } = parse(
  readFileSync(join(PACKAGE_FOLDER, 'k8s', 'components', 'monitoring', 'alerts.yaml'), 'utf8'),
) as { spec: { groups: { rules: { alert: string }[] }[] } }
const promtool = join(dirname(findProgram('prometheus', process.env.PATH ?? '', 'Run "npm run setup".')), 'promtool')

interface Case {
  readonly what: string
  readonly alert: string
  /** In promtool's notation, one value a minute. */
  readonly series: Readonly<Record<string, string>>
  readonly at: string
  /** The labels of the alerts that fire. */
  readonly fires: readonly Record<string, string>[]
}

const cases: readonly Case[] = [
  {
    what: 'requests that are held for a minute and then refused, over and over',
    alert: 'PercolateTierDoesNotWake',
    series: {
      'percolate_held_expired_total{tier="small",pod="c0"}': '0 0 3 6 9 12',
      'percolate_ready_nodes{tier="small",pod="c0"}': '0x5',
      'percolate_held_expired_total{tier="large",pod="c0"}': '0x5',
      'percolate_ready_nodes{tier="large",pod="c0"}': '0x5',
    },
    at: '5m',
    fires: [{ severity: 'critical', tier: 'small' }],
  },
  {
    what: 'a tier that woke',
    alert: 'PercolateTierDoesNotWake',
    series: {
      'percolate_held_expired_total{tier="small",pod="c0"}': '0x5',
      'percolate_ready_nodes{tier="small",pod="c0"}': '0 0 3 3 3 3',
    },
    at: '5m',
    fires: [],
  },
  {
    what: 'one tier of two with too few copies',
    alert: 'PercolateUnderreplicated',
    series: {
      'percolate_controller_tenants_underreplicated{tier="small",pod="c0"}': '4x9',
      'percolate_controller_tenants_underreplicated{tier="large",pod="c0"}': '0x9',
    },
    at: '9m',
    fires: [{ severity: 'warning', tier: 'small' }],
  },
  {
    what: 'jobs that wait while there is no worker: controllers tell',
    alert: 'PercolateJobsWait',
    series: { 'percolate_jobs_waiting{tier="small",pod="c0"}': '200x30' },
    at: '30m',
    fires: [{ severity: 'warning', tier: 'small' }],
  },
  {
    what: 'JetStream that is nearly full',
    alert: 'PercolateStreamStorage',
    series: {
      'percolate_jetstream_used_bytes{pod="c0"}': '80x20',
      'percolate_jetstream_limit_bytes{pod="c0"}': '100x20',
    },
    at: '20m',
    fires: [{ severity: 'warning' }],
  },
  {
    what: 'an account without a limit',
    alert: 'PercolateStreamStorage',
    series: {
      'percolate_jetstream_used_bytes{pod="c0"}': '80x20',
      'percolate_jetstream_limit_bytes{pod="c0"}': Array(21).fill('+Inf').join(' '),
    },
    at: '20m',
    fires: [],
  },
  {
    what: 'a stream that stays full',
    alert: 'PercolateStreamsFull',
    series: { 'percolate_streams_full_total{pod="n0"}': '0+60x20' },
    at: '20m',
    fires: [{ severity: 'warning' }],
  },
]

it('alerts fire on what they are for, and only then', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'percolate-alerts-'))
  const annotated = spec.groups.map(group => ({
    ...group,
    rules: group.rules.map(rule => ({ ...rule, annotations: {} })),
  }))
  await writeFile(join(folder, 'rules.yaml'), JSON.stringify({ groups: annotated }))
  const tests = cases.map(({ what, alert, series, at, fires }) => ({
    name: what,
    interval: '1m',
    input_series: Object.entries(series).map(([name, values]) => ({ series: name, values })),
    alert_rule_test: [{ eval_time: at, alertname: alert, exp_alerts: fires.map(exp_labels => ({ exp_labels })) }],
  }))
  await writeFile(
    join(folder, 'tests.yaml'),
    JSON.stringify({ rule_files: ['rules.yaml'], evaluation_interval: '1m', tests }),
  )
  const { status, stdout, stderr } = spawnSync(promtool, ['test', 'rules', join(folder, 'tests.yaml')], {
    encoding: 'utf8',
  })
  await rm(folder, { recursive: true })
  expect([status, stdout + stderr]).toEqual([0, expect.stringContaining('SUCCESS')])
})
