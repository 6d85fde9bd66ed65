import { spawn } from 'node:child_process'
import { cpSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { PACKAGE_FOLDER } from '../../src/base/version.ts'
import { type Mutation, mutations } from './mutations.ts'
import { type Checker, checkerOf } from './objections.ts'

export interface Verdict {
  readonly name: string
  /** By a checker that it should be caught by. */
  readonly caught: boolean
  /** The checkers that objected in the life that it was caught in. */
  readonly by: readonly Checker[]
  /** Runs until the first failure, or all of them. */
  readonly runs: number
  readonly violation: string
}

/** Plants one bug in a copy of the compiled code and runs the simulator until a checker objects, at most for `seconds`. */
export async function tryMutation(mutation: Mutation, seconds: number): Promise<Verdict> {
  const folder = join(PACKAGE_FOLDER, '.cache', 'mutants', mutation.name.replaceAll(' ', '-'))
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(folder, { recursive: true })
  cpSync(join(PACKAGE_FOLDER, 'dist', 'src'), join(folder, 'dist', 'src'), { recursive: true })
  cpSync(join(PACKAGE_FOLDER, 'dist', 'tests', 'sim'), join(folder, 'dist', 'tests', 'sim'), { recursive: true })
  cpSync(join(PACKAGE_FOLDER, 'dist', 'test-topology'), join(folder, 'dist', 'test-topology'), { recursive: true })
  cpSync(join(PACKAGE_FOLDER, 'package.json'), join(folder, 'package.json'))
  symlinkSync(join(PACKAGE_FOLDER, 'node_modules'), join(folder, 'node_modules'))
  for (const { file, from, to } of mutation.edits) {
    const path = join(folder, 'dist', file)
    const code = readFileSync(path, 'utf8')
    const parts = code.split(from)
    if (parts.length !== 2)
      throw new Error(
        `mutation "${mutation.name}": ${JSON.stringify(from)} occurs ${parts.length - 1} times in ${file}`,
      )
    writeFileSync(path, parts.join(to))
  }
  const cli = join(folder, 'dist', 'tests', 'sim', 'cli.js')
  const args = [
    cli,
    '--seed',
    '1',
    '--runs',
    '100000',
    '--seconds',
    String(seconds),
    '--first',
    '--json',
    ...(mutation.isWide ? ['--wide'] : []),
    ...(mutation.copies ? ['--copies', String(mutation.copies)] : []),
    ...(mutation.focus ? ['--focus', mutation.focus.join(',')] : []),
    ...(mutation.by ? ['--by', mutation.by.join(',')] : []),
  ]
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] })
  let output = ''
  let errors = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    output += text
  })
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    errors = (errors + text).slice(-2000)
  })
  const timer = setTimeout(() => child.kill('SIGKILL'), (seconds + 60) * 1000)
  await new Promise(resolve => child.once('close', resolve))
  clearTimeout(timer)
  rmSync(folder, { recursive: true, force: true })
  if (output === '')
    return {
      name: mutation.name,
      caught: false,
      by: [],
      runs: 0,
      violation: `it does not even run: ${errors.slice(0, 300)}`,
    }
  const { runs, failures } = JSON.parse(output) as { runs: number; failures: { violations: string[] }[] }
  const violations = failures.at(-1)?.violations ?? []
  const isAwaited = (said: string) => mutation.by?.includes(checkerOf(said)) ?? true
  return {
    name: mutation.name,
    caught: violations.some(isAwaited),
    by: [...new Set(violations.map(checkerOf))],
    runs,
    violation: (violations.find(isAwaited) ?? violations[0] ?? '').slice(0, 200),
  }
}

/** One line about it. */
export const show = ({ name, caught, runs, by, violation }: Verdict): string =>
  `${caught ? 'caught' : 'NOT CAUGHT'}  ${name}  after ${runs} lives  by ${by.join(', ') || 'nobody'}: ${violation}`

/** All of them, two at a time. */
export async function tryMutations(
  seconds: number,
  onVerdict: (verdict: Verdict) => void,
  only?: string,
): Promise<Verdict[]> {
  const waiting = mutations.filter(({ name }) => only === undefined || name === only)
  const verdicts: Verdict[] = []
  const lane = async () => {
    for (let next = waiting.shift(); next; next = waiting.shift()) {
      const verdict = await tryMutation(next, seconds)
      verdicts.push(verdict)
      onVerdict(verdict)
    }
  }
  await Promise.all([lane(), lane()])
  return verdicts
}

if (process.argv[1]?.endsWith('mutate.js')) {
  const verdicts = await tryMutations(
    Number(process.argv[2] ?? 60),
    verdict => console.log(show(verdict)),
    process.argv[3],
  )
  process.exit(verdicts.every(({ caught }) => caught) ? 0 : 1)
}
