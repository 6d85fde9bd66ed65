import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll } from 'vitest'

/** Every test file has a temporary directory of its own, which goes with it: also what its processes leave there, and what a test that fails does not get to remove. */
const before = process.env.TMPDIR
const own = mkdtempSync(join(tmpdir(), 'percolate-tests-'))
process.env.TMPDIR = own

// Registered before those of the file, and so the last to run.
afterAll(() => {
  if (before === undefined) delete process.env.TMPDIR
  else process.env.TMPDIR = before
  rmSync(own, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 })
})
