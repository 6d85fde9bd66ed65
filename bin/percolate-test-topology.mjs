#!/usr/bin/env node
import { existsSync } from 'node:fs'

const commands = new URL('../dist/test-topology/commands.js', import.meta.url)
if (!existsSync(commands)) {
  console.error('percolate: not built yet; run "npm run setup" once, in a clone of the repository.')
  process.exit(1)
}
process.env.AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED ??= 'true'
const { topologyProgram } = await import(commands.href)
await topologyProgram().parseAsync()
