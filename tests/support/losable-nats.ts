import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { PACKAGE_FOLDER } from '../../src/base/version.ts'
import { freePorts, Program } from '../../src/cluster/processes.ts'
import { type EmbeddedNats, findNatsServer } from '../../src/stream/nats/server.ts'
import { connectNats } from './running.ts'

/** A real nats-server that stays under one address when it is killed and comes back without its store. */
export interface LosableNats extends EmbeddedNats {
  /** SIGKILL, and everything that it kept is gone. */
  loseStore(): Promise<void>
  /** SIGKILL; its store stays. */
  kill(): Promise<void>
  /** Starts it again; resolves when JetStream answers. */
  start(): Promise<void>
}

export async function startLosableNats(folder: string): Promise<LosableNats> {
  const [port] = await freePorts(1)
  const url = `nats://127.0.0.1:${port}`
  const store = join(folder, 'losable')
  const server = findNatsServer({
    program: undefined,
    cacheFolder: join(PACKAGE_FOLDER, '.cache', 'nats-server'),
    searchPath: process.env.PATH ?? '',
  })
  const program = new Program({
    name: 'losable-nats',
    command: [server, '-a', '127.0.0.1', '-p', String(port), '-js', '-sd', store],
    env: {},
    logPath: join(folder, 'losable-nats.log'),
    ready: async () => {
      const stream = connectNats(url)
      try {
        await stream.streamInfo('none')
        return true
      } finally {
        await stream.close()
      }
    },
  })
  await program.start()
  return {
    url,
    version: '',
    monitorUrl: '',
    restart: async () => {
      await program.stop()
      await program.start()
    },
    get pid() {
      return program.pid ?? 0
    },
    kill: () => program.signal('SIGKILL'),
    loseStore: async () => {
      await program.signal('SIGKILL')
      await rm(store, { recursive: true, force: true })
    },
    start: () => program.start(),
    stop: () => program.stop(),
  }
}
