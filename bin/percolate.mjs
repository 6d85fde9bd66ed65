#!/usr/bin/env node
import { existsSync } from 'node:fs'

const main = new URL('../dist/src/cli/main.js', import.meta.url)
if (!existsSync(main)) {
  console.error('percolate: not built yet; run "npm run build" once.')
  process.exit(1)
}
// The AWS SDK is pinned to a version that supports every Node that Percolate does.
process.env.AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED ??= 'true'
await import(main.href)
