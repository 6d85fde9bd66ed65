import { existsSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Verdict } from './scenarios/scenario.ts'
import type { TopologyEvent, TopologySample } from './topology.ts'

export interface ReportPart {
  readonly title: string
  readonly verdict?: Omit<Verdict, 'samples' | 'events'>
  readonly samples: readonly TopologySample[]
  readonly events: readonly TopologyEvent[]
}

/** What a topology wrote into its data directory while it ran. */
export async function readRecord(dataDir: string): Promise<ReportPart> {
  const lines = async <T>(name: string): Promise<T[]> => {
    const path = join(dataDir, name)
    if (!existsSync(path)) return []
    // The last line may be in the middle of being written.
    return (await readFile(path, 'utf8')).split('\n').flatMap(line => {
      try {
        return [JSON.parse(line) as T]
      } catch {
        return []
      }
    })
  }
  return {
    title: dataDir,
    samples: await lines<TopologySample>('samples.jsonl'),
    events: await lines<TopologyEvent>('events.jsonl'),
  }
}

const escaped = (text: string | number): string => String(text).replace(/[&<>"']/g, char => `&#${char.charCodeAt(0)};`)

/** A page that needs nothing else: verdicts, figures, and how many processes there were over time. */
export function renderReport(parts: readonly ReportPart[], madeAt: Date): string {
  return `<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Percolate test topology</title>
<style>
  :root { color-scheme: light dark; --ink: #1d2733; --soft: #66727f; --line: #d8dee4; --back: #fff; --a: #0b6bcb; --b: #c2410c; --good: #15803d; --bad: #b91c1c }
  @media (prefers-color-scheme: dark) { :root { --ink: #e6eaee; --soft: #98a4b0; --line: #37414b; --back: #14191e; --a: #60a5fa; --b: #fb923c; --good: #4ade80; --bad: #f87171 } }
  body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back); max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
  h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin: 2.5rem 0 .25rem } p, small { color: var(--soft) }
  table { border-collapse: collapse; margin: .75rem 0 } td, th { padding: .2rem .9rem .2rem 0; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top }
  td.n { font-variant-numeric: tabular-nums } .good { color: var(--good) } .bad { color: var(--bad) }
  svg { width: 100%; height: auto; margin-top: .5rem } svg text { font: 11px system-ui, sans-serif; fill: var(--soft) }
  .events { columns: 2; font-size: 13px } .events div { break-inside: avoid }
</style>
<h1>Percolate test topology</h1>
<p>${escaped(madeAt.toISOString().slice(0, 16).replace('T', ' '))} UTC</p>
${parts.some(({ verdict }) => verdict) ? summary(parts) : ''}
${parts.map(part).join('\n')}
</html>
`
}

const word = (passed: boolean, isAim = false): string =>
  passed ? '<span class="good">passed</span>' : isAim ? 'aim missed' : '<span class="bad">failed</span>'

const summary = (parts: readonly ReportPart[]): string =>
  `<table><tr><th>scenario<th>verdict<th>seconds</tr>${parts
    .map(({ verdict }) =>
      verdict
        ? `<tr><td>${escaped(verdict.scenario)}<td>${word(verdict.passed)}<td class="n">${verdict.seconds}</tr>`
        : '',
    )
    .join('')}</table>`

function part({ title, verdict, samples, events }: ReportPart): string {
  const startMs = Math.min(samples[0]?.atMs ?? Number.POSITIVE_INFINITY, events[0]?.atMs ?? Number.POSITIVE_INFINITY)
  const found = verdict
    ? `<table>${verdict.checks.map(({ text, passed, isAim }) => `<tr><td>${word(passed, isAim)}<td>${escaped(text)}</tr>`).join('')}</table>
<table>${Object.entries(verdict.figures)
        .map(([name, value]) => `<tr><td>${escaped(name)}<td class="n">${escaped(value)}</tr>`)
        .join('')}</table>`
    : ''
  return `<h2>${escaped(verdict ? verdict.scenario : title)}</h2>
${verdict ? `<p>${escaped(verdict.title)}. Windows divided by ${verdict.speed}.</p>` : ''}${found}
${plot('nodes', samples, startMs, ({ nodes, tenants }) => [nodes.wanted, nodes.ready, tenants], ['wanted', 'ready', 'active or waiting tenants'])}
${plot('workers', samples, startMs, ({ workers, jobs }) => [workers.wanted, workers.ready, jobs], ['wanted', 'ready', 'jobs'])}
<div class="events">${events.map(({ atMs, text }) => `<div><small>${((atMs - startMs) / 1000).toFixed(1)} s</small> ${escaped(text)}</div>`).join('')}</div>`
}

const WIDTH = 900
const HEIGHT = 164
const TOP = 26
const LEFT = 34
const BOTTOM = 20

/** Steps over time: what was wanted, what was ready, and what asked for it. */
function plot(
  name: string,
  samples: readonly TopologySample[],
  startMs: number,
  read: (sample: TopologySample) => readonly (number | undefined)[],
  labels: readonly [string, string, string],
): string {
  const values = samples.map(read)
  const most = Math.max(1, ...values.flat().filter(value => value !== undefined))
  if (samples.length < 2 || values.flat().every(value => !value)) return ''
  const seconds = (samples.at(-1)!.atMs - startMs) / 1000
  const x = (atMs: number) => LEFT + ((atMs - startMs) / 1000 / seconds) * (WIDTH - LEFT - 4)
  const y = (value: number) => HEIGHT - BOTTOM - (value / most) * (HEIGHT - BOTTOM - TOP)
  const line = (at: number) => {
    let path = ''
    for (const [n, sample] of samples.entries()) {
      const value = values[n]![at]
      if (value === undefined) continue
      path +=
        path === ''
          ? `M${x(sample.atMs).toFixed(1)} ${y(value).toFixed(1)}`
          : `H${x(sample.atMs).toFixed(1)}V${y(value).toFixed(1)}`
    }
    return path
  }
  const styles = ['stroke="var(--a)"', 'stroke="var(--a)" stroke-dasharray="3 3"', 'stroke="var(--b)"']
  const ticks = [0, most]
    .map(
      value =>
        `<text x="${LEFT - 6}" y="${y(value) + 4}" text-anchor="end">${value}</text><line x1="${LEFT}" x2="${WIDTH}" y1="${y(value)}" y2="${y(value)}" stroke="var(--line)"/>`,
    )
    .join('')
  const times = Array.from({ length: 6 }, (_, n) => (seconds * n) / 5)
    .map(
      (at, n) =>
        `<text x="${x(startMs + at * 1000)}" y="${HEIGHT - 4}" text-anchor="${n === 5 ? 'end' : 'middle'}">${at.toFixed(0)} s</text>`,
    )
    .join('')
  const legend = labels
    .map(
      (label, n) =>
        `<line x1="${LEFT + n * 190 + 50}" x2="${LEFT + n * 190 + 74}" y1="6" y2="6" ${styles[n]} stroke-width="2"/><text x="${LEFT + n * 190 + 80}" y="10">${label}</text>`,
    )
    .join('')
  return `<svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="${name} over time"><text x="0" y="10" style="font-weight:600">${name}</text>${legend}${ticks}${times}${labels
    .map((_, n) => `<path d="${line(n)}" fill="none" ${styles[n]} stroke-width="2"/>`)
    .join('')}</svg>`
}
