// npm run docs: writes the docs and the ConfigMap that are generated from tables in the code. --check: says whether they are up to date.
import { readFileSync, writeFileSync } from 'node:fs'
import { build, root } from './setup.mjs'

await build()
const { configMarkdown, productionEnv } = await import('../dist/src/config/docs.js')
const { errorsMarkdown } = await import('../dist/src/base/errors-docs.js')
const { metricsMarkdown } = await import('../dist/src/metrics-docs.js')
const pages = {
  'docs/config.md': configMarkdown(),
  'docs/errors.md': errorsMarkdown(),
  'docs/metrics.md': await metricsMarkdown(),
  'k8s/base/settings.env': productionEnv(),
}
const stale = Object.entries(pages).filter(([path, text]) => read(path) !== text)
if (process.argv.includes('--check')) {
  if (stale.length > 0) {
    console.error(`out of date: ${stale.map(([path]) => path).join(', ')}; run "npm run docs"`)
    process.exit(1)
  }
} else for (const [path, text] of stale) writeFileSync(`${root}${path}`, text)
process.exit(0)

function read(path) {
  try {
    return readFileSync(`${root}${path}`, 'utf8')
  } catch {
    return undefined
  }
}
