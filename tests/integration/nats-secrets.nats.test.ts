import { spawnSync } from 'node:child_process'
import { cp, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { parseAllDocuments } from 'yaml'
import { PACKAGE_FOLDER } from '../../src/base/version.ts'
import { findNatsServer } from '../../src/stream/nats/server.ts'
import type { Manifest } from '../support/manifests.ts'
import { remove, tempFolder } from '../support/running.ts'

const NATS = join(PACKAGE_FOLDER, 'k8s', 'components', 'nats')
const SECRETS = 1000
const program = findNatsServer({
  program: undefined,
  cacheFolder: join(PACKAGE_FOLDER, '.cache', 'nats-server'),
  searchPath: process.env.PATH ?? '',
})

let folder: string
beforeAll(async () => {
  folder = await tempFolder()
})
afterAll(() => remove(folder))

/** `nats-server -t`: whether it would start with this configuration. */
async function check(config: string, env: Record<string, string>): Promise<{ status: number | null; text: string }> {
  const file = join(folder, 'nats.conf')
  await writeFile(file, config)
  const { status, stderr } = spawnSync(program, ['-t', '-c', file], { env, encoding: 'utf8' })
  return { status, text: stderr }
}

/** Values that text takes which is not quoted: nats-server reads them as numbers, sizes, times and switches. */
const AWKWARD = ['1e10', '123456789012', 'true', 'off', '10MB', '30s', '-5', '2024-01-01T00:00:00Z', '$x', '# a', 'a b']

describe('NATS starts with every secret', () => {
  it(`that up.sh makes, ${SECRETS} of them, even where nothing quotes them`, async () => {
    const { stdout } = spawnSync(
      'bash',
      ['-c', `source k8s/kind/random.sh; for _ in {1..${SECRETS}}; do random; echo; done`],
      { cwd: PACKAGE_FOLDER, encoding: 'utf8' },
    )
    const made = stdout.trim().split('\n')
    expect([made.length, new Set(made).size]).toEqual([SECRETS, SECRETS])
    const users = made.map((_, n) => `{ user: u${n}, password: $P${n} }`)
    const env = Object.fromEntries(made.map((password, n) => [`P${n}`, password]))
    expect(await check(`authorization { users: [\n${users.join('\n')}\n] }`, env)).toMatchObject({ status: 0 })
  })

  it('that an operator chooses, as the manifest quotes them', async () => {
    const sets = parseAllDocuments(await readFile(join(NATS, 'nats.yaml'), 'utf8')).map(each => each.toJS() as Manifest)
    const { env } = sets.find(({ kind }) => kind === 'StatefulSet').spec.template.spec.containers[0]
    /** As the kubelet fills in `$(NAME)` of what stands before it. */
    const filled = (password: string) => {
      const values: Record<string, string> = {}
      for (const { name, value, valueFrom } of env as Manifest[])
        values[name] = valueFrom
          ? valueFrom.secretKeyRef
            ? password
            : 'percolate-nats-0'
          : value.replace(/\$\((\w+)\)/g, (_: string, other: string) => values[other])
      return values
    }
    await cp(join(NATS, 'users.conf'), join(folder, 'users.conf'))
    const config = await readFile(join(NATS, 'nats.conf'), 'utf8')
    for (const password of AWKWARD) {
      const { status, text } = await check(config.replace('sync_interval: always', ''), filled(password))
      expect([password, status, text]).toEqual([password, 0, expect.any(String)])
    }
  })

  it('which is not so without the quotes', async () => {
    const users = 'authorization { users: [{ user: a, password: $P }] }'
    for (const password of ['1e10', '123456789012', 'true'])
      expect([password, (await check(users, { P: password })).status]).toEqual([password, 1])
  })
})
