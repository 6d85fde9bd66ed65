import { existsSync } from 'node:fs'
import { expect, it } from 'vitest'
import { Program } from '../../../src/cluster/processes.ts'

// Every write to it fails as on a full disk; only Linux has it.
const FULL = '/dev/full'

it.skipIf(!existsSync(FULL))('a launcher whose log cannot be written, as on a full disk, goes on', async () => {
  const failures: unknown[] = []
  const note = (error: unknown) => void failures.push(error)
  process.on('uncaughtException', note)
  try {
    const said = `for (let n = 0; n < 3; n++) setTimeout(() => console.log('line', n), n * 50)`
    const program = new Program({
      name: 'talker',
      command: [process.execPath, '-e', `${said}; setTimeout(() => {}, 60_000)`],
      env: {},
      logPath: FULL,
      ready: async () => true,
    })
    await program.start()
    await new Promise(resolve => setTimeout(resolve, 500))
    expect([program.isRunning, failures]).toEqual([true, []])
    await program.stop()
  } finally {
    process.off('uncaughtException', note)
  }
})
