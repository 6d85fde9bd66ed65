// Compiles the TypeScript sources into dist/. `npm start` translates file by file what running needs, without looking at types (two seconds); everything else
// runs the compiler proper, which checks all types and compiles the tests and benchmarks too.
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join, relative, sep } from 'node:path'

/** What the command line can start. */
const RUNNING = ['src', 'client', 'workers', 'gateway', 'test-topology']
const ALL = [...RUNNING, 'bench', 'tests']

/** Brings dist/ up to date with the sources; `onlyRunning`: just what the command line needs, unchecked. */
export async function compile(root, say, { onlyRunning = false } = {}) {
  const marker = name => join(root, 'dist', name)
  const [whole, running] = [marker('.built'), marker('.built-for-running')]
  const configs = ['tsconfig.json', 'package-lock.json'].map(name => modifiedMs(join(root, name)))
  const since = folders => Math.max(...configs, ...folders.map(folder => newestMs(join(root, folder))))
  const kernel = join(root, 'src', 'search', 'kernel.gen.ts')
  const hasKernel = modifiedMs(kernel) >= modifiedMs(join(root, 'src', 'search', 'kernel.wat'))
  const isCurrent = onlyRunning
    ? Math.max(modifiedMs(whole), modifiedMs(running)) > since(RUNNING)
    : modifiedMs(whole) > since(ALL)
  if (isCurrent && hasKernel) return
  say(onlyRunning ? 'compiling what running needs' : 'compiling')
  const node = (...args) => execFileSync(process.execPath, args, { cwd: root, stdio: 'inherit' })
  if (!hasKernel) node('scripts/build-kernel.mjs')
  if (onlyRunning) await translate(root)
  else node('node_modules/typescript/bin/tsc')
  mkdirSync(join(root, 'dist'), { recursive: true })
  writeFileSync(onlyRunning ? running : whole, '')
}

/** Each file by itself: `isolatedModules` and `erasableSyntaxOnly` see to it that this gives what the compiler gives. */
async function translate(root) {
  const { default: ts } = await import('typescript')
  const { config } = ts.readConfigFile(join(root, 'tsconfig.json'), ts.sys.readFile)
  const { options } = ts.convertCompilerOptionsFromJson(config.compilerOptions, root)
  const compilerOptions = { ...options, incremental: false, tsBuildInfoFile: undefined, module: ts.ModuleKind.ESNext }
  for (const folder of RUNNING)
    for (const path of sources(join(root, folder))) {
      const target = join(root, 'dist', relative(root, path)).replace(/\.ts$/, '.js')
      mkdirSync(dirname(target), { recursive: true })
      const fileName = relative(dirname(target), path).split(sep).join('/')
      const { outputText, sourceMapText } = ts.transpileModule(readFileSync(path, 'utf8'), {
        compilerOptions,
        fileName,
      })
      writeFileSync(target, outputText)
      writeFileSync(`${target}.map`, sourceMapText)
    }
}

const sources = folder =>
  readdirSync(folder, { withFileTypes: true }).flatMap(entry => {
    const path = join(folder, entry.name)
    if (entry.isDirectory()) return sources(path)
    return /\.ts$/.test(entry.name) && !/\.d\.ts$/.test(entry.name) ? [path] : []
  })

const modifiedMs = path => (existsSync(path) ? statSync(path).mtimeMs : 0)

function newestMs(path) {
  if (!existsSync(path)) return 0
  const info = statSync(path)
  if (!info.isDirectory()) return info.mtimeMs
  return Math.max(
    0,
    ...readdirSync(path)
      .filter(name => !name.endsWith('.gen.ts'))
      .map(name => newestMs(join(path, name))),
  )
}
