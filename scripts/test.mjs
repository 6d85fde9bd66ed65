// npm test: sets up what is missing, checks the code (types, lint, boundaries, generated docs), runs the tests, and says which took longest. --long: the long tests.
// With paths it runs only those: `npm test -- tests/unit/search`; what starts no servers fetches none.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { root, setup } from './setup.mjs'

const SLOWEST = 10
const args = process.argv.slice(2)
const isLong = args.includes('--long')
const rest = args.filter(arg => arg !== '--long')
const paths = rest.filter(arg => !arg.startsWith('-'))
const needsNothing = path => /^(\.\/)?tests\/(unit|property|contract|sim)(\/|$)/.test(path)
const folder = mkdtempSync(join(tmpdir(), 'percolate-tests-'))
const report = join(folder, 'report.json')
let status = 1
try {
  await setup(!isLong && paths.length > 0 && paths.every(needsNothing) ? 'checking' : 'clusters')
  status = main()
} catch (error) {
  console.error(`percolate: ${error.message}`)
} finally {
  rmSync(folder, { recursive: true, force: true })
}
process.exit(status)

function main() {
  if (isLong) {
    // A life that fails must not hide what the others would have shown.
    const lives = run({ PERCOLATE_SIM_SECONDS: '900', PERCOLATE_SIM_RUNS: '1000000' }, ...vitest('sim'), ...rest)
    return reported('long') || lives
  }
  if (rest.length > 0) return run({}, ...vitest('unit', 'memory', 'integration', 'sim'), ...rest)
  return run({}, 'scripts/verify.mjs') || reported('unit', 'memory', 'integration', 'sim')
}

/** Says after the run what took longest, and last of all what did not run: that did not pass. */
function reported(...projects) {
  const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${report}`]
  const failed = run({}, ...vitest(...projects), ...reporters, ...rest)
  if (existsSync(report)) {
    const files = JSON.parse(readFileSync(report, 'utf8')).testResults
    slowest(files)
    skipped(files)
  }
  return failed
}

function vitest(...projects) {
  return ['node_modules/vitest/vitest.mjs', 'run', ...projects.flatMap(name => ['--project', name])]
}

/** The test files that took longest, so that a slow one does not come in unseen. */
function slowest(files) {
  const tests = files.flatMap(({ name, assertionResults }) =>
    assertionResults.map(({ fullName, duration }) => ({
      file: relative(root, name),
      fullName,
      duration: duration ?? 0,
    })),
  )
  const seconds = ms => `${(ms / 1000).toFixed(1).padStart(6)} s`
  const longest = (items, ms) => items.toSorted((a, b) => ms(b) - ms(a)).slice(0, SLOWEST)
  console.log('The slowest files, with their set-up:')
  for (const file of longest(files, ({ startTime, endTime }) => endTime - startTime))
    console.log(`${seconds(file.endTime - file.startTime)}  ${relative(root, file.name)}`)
  console.log('The slowest tests:')
  for (const { file, fullName, duration } of longest(tests, test => test.duration))
    console.log(`${seconds(duration)}  ${file}: ${fullName}`)
}

/** A tool that is missing must not look like a check that passed. */
function skipped(files) {
  for (const { name, assertionResults } of files)
    for (const { fullName, status } of assertionResults)
      if (status !== 'passed' && status !== 'failed')
        console.warn(`!!! NOT CHECKED (${status}): ${relative(root, name)}: ${fullName}`)
}

function run(env, ...command) {
  const { status } = spawnSync(process.execPath, command, {
    cwd: root,
    stdio: 'inherit',
    env: { ...process.env, ...env },
  })
  return status ?? 1
}
