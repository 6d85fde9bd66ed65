import { join } from 'node:path'
import type { Time } from '../base/time.ts'
import { streamDisk } from '../stream/nats/disk.ts'
import { jetStreamHealth } from '../stream/nats/health.ts'
import { JetStreamWatch, RestartTurns } from '../stream/nats/watch.ts'
import type { LocalCluster } from './cluster.ts'

/** How long a server has to stop in order: one whose JetStream hangs does not. */
const STOP_MS_MAX = 3000

/** Restarts those of a local cluster's nats-servers whose JetStream a full disk has ended, one at a time. Begin when they run; ends with what it returns. */
export function watchNats(
  cluster: LocalCluster,
  options: { readonly time: Time; readonly reserveBytes: number; readonly say: (text: string) => void },
): () => Promise<void> {
  const { time, reserveBytes, say } = options
  const turns = new RestartTurns()
  const watches = cluster.addresses.natsMonitors.map(({ name, at }) => {
    const program = cluster.program(name)
    return new JetStreamWatch({
      disk: streamDisk(join(cluster.options.dataDir, name), reserveBytes, time),
      health: jetStreamHealth(() => `http://${at}`, time),
      turns,
      time,
      say: text => say(`${name}: ${text}`),
      restart: async () => {
        await Promise.race([program.stop(), time.sleep(STOP_MS_MAX, { ref: false })])
        await program.signal('SIGKILL')
        await program.start()
      },
    })
  })
  for (const watch of watches) watch.start()
  return async () => void (await Promise.all(watches.map(watch => watch.stop())))
}
