import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { haproxyConfig, type RouterPlan } from '../../src/cluster/configs.ts'
import { freePorts } from '../../src/cluster/processes.ts'
import { programOrNone } from './manifests.ts'
import { eventually, remove, request, tempFolder } from './running.ts'

export const haproxy = programOrNone('haproxy')

export interface RunningRouter {
  readonly http: number
  readonly grpc: number
  readonly stats: number
  stop(): Promise<void>
}

/** A real HAProxy, configured as in a local cluster, before nodes that are ready by `/ready` on their HTTP ports. */
export async function startRouter(
  nodes: readonly { readonly http: number; readonly grpc: number }[],
  bounds: Pick<RouterPlan, 'connectionsMax' | 'requestHeadMs'> = {},
): Promise<RunningRouter> {
  if (haproxy === undefined) throw new Error('There is no HAProxy.')
  const folder = await tempFolder()
  const [http = 0, grpc = 0, stats = 0, nobody = 0] = await freePorts(4)
  const path = join(folder, 'router.cfg')
  const config = haproxyConfig({
    httpPort: http,
    grpcPort: grpc,
    statsPort: stats,
    nodes: nodes.map((node, n) => ({ name: `node-${n + 1}`, host: '127.0.0.1', ...node })),
    activator: { host: '127.0.0.1', http: nobody, grpc: nobody },
    tier: 'small',
    adminSocket: join(folder, 'admin.sock'),
    ...bounds,
  })
  await writeFile(path, config)
  const router = spawn(haproxy, ['-db', '-f', path], {
    stdio: 'ignore',
    env: { ...process.env, LD_LIBRARY_PATH: join(dirname(haproxy), 'lib') },
  })
  const isUp = () => request(`http://127.0.0.1:${http}/ready`, 'GET').then(({ status }) => status === 200)
  await eventually('the router has a node', () => isUp().catch(() => false))
  return {
    http,
    grpc,
    stats,
    stop: async () => {
      const gone = once(router, 'exit')
      if (router.kill('SIGKILL')) await gone
      await remove(folder)
    },
  }
}
