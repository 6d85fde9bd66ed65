import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll } from 'vitest'
import { createLogger } from '../../src/base/logger.ts'
import { systemTime } from '../../src/base/time.ts'
import { PACKAGE_FOLDER } from '../../src/base/version.ts'
import { loadConfig } from '../../src/config/load.ts'
import type { Config } from '../../src/config/settings.ts'
import { type RunningNode, startNode } from '../../src/node.ts'
import { type EmbeddedS3, startEmbeddedS3 } from '../../src/objects/embedded/server.ts'
import { S3ObjectStore } from '../../src/objects/s3.ts'
import { NatsStream } from '../../src/stream/nats/adapter.ts'
import { type EmbeddedNats, startEmbeddedNats } from '../../src/stream/nats/server.ts'

/** Real parts for integration tests, on free ports and in folders of their own, stopped together. */
export const logger = createLogger({ level: process.env.TEST_LOG ?? 'silent', role: 'test' })
export const secrets = { accessKey: 'test-key', secretKey: 'test-secret-that-no-answer-may-show', region: 'us-east-1' }

export const tempFolder = (): Promise<string> => mkdtemp(join(tmpdir(), 'percolate-test-'))

export function testConfig(dataDir: string, env: Record<string, string> = {}): Config {
  const ports = {
    PERCOLATE_HTTP_PORT: '0',
    PERCOLATE_GRPC_PORT: '0',
    PERCOLATE_GATEWAY_PORT: '0',
    PERCOLATE_WORKER_PORT: '0',
  }
  return loadConfig({ role: 'up', env: { PERCOLATE_DATA_DIR: dataDir, ...ports, ...env } })
}

export interface TestNode extends RunningNode {
  readonly url: string
  readonly folder: string
  request(
    method: string,
    path: string,
    options?: { tenant?: string | undefined; body?: unknown; headers?: Record<string, string> },
  ): Promise<Answer>
}

// biome-ignore lint/suspicious/noExplicitAny: tests look into answers of every shape.
export type Answer = { status: number; body: any; headers: Headers }

/** A node for all tests of a file, started outside of them; it goes after the last, with its folder. */
export async function startFileNode(options: Parameters<typeof startTestNode>[0] = {}): Promise<TestNode> {
  const node = await startTestNode(options)
  afterAll(async () => {
    await node.stop()
    await remove(node.folder)
  })
  return node
}

export async function startTestNode(
  options: { env?: Record<string, string>; stream?: NatsStream; folder?: string; objects?: S3ObjectStore } = {},
): Promise<TestNode> {
  const folder = options.folder ?? (await tempFolder())
  const node = await startNode({
    config: testConfig(folder, options.env),
    logger,
    time: systemTime,
    stream: options.stream,
    objects: options.objects,
  })
  const url = `http://127.0.0.1:${node.httpPort}`
  return { ...node, url, folder, request: (method, path, rest = {}) => request(url + path, method, rest) }
}

export async function request(
  url: string,
  method: string,
  options: { tenant?: string | undefined; body?: unknown; headers?: Record<string, string> } = {},
): Promise<Answer> {
  const tenant = 'tenant' in options ? options.tenant : 'acme'
  const raw = typeof options.body === 'string' || options.body instanceof FormData
  const response = await fetch(url, {
    method,
    headers: {
      ...(tenant === undefined ? {} : { 'x-tenant-id': tenant }),
      ...(options.body === undefined || options.body instanceof FormData ? {} : { 'content-type': 'application/json' }),
      ...options.headers,
    },
    ...(options.body === undefined ? {} : { body: raw ? (options.body as string) : JSON.stringify(options.body) }),
  })
  const text = await response.text()
  let body: unknown = text
  try {
    body = JSON.parse(text)
  } catch {
    // Not JSON: the text is the answer.
  }
  return { status: response.status, body, headers: response.headers }
}

export async function startTestNats(folder: string): Promise<EmbeddedNats> {
  return startEmbeddedNats({
    folder: join(folder, 'nats'),
    host: '127.0.0.1',
    port: 0,
    program: undefined,
    cacheFolder: join(PACKAGE_FOLDER, '.cache', 'nats-server'),
    searchPath: process.env.PATH ?? '',
    logger,
    onExit: () => {},
  })
}

export const connectNats = (url: string): NatsStream =>
  new NatsStream({ url, name: 'test', requestTimeoutMs: 3000, logger })

export const startTestS3 = (folder: string, { reserveBytes = 0 } = {}): Promise<EmbeddedS3> =>
  startEmbeddedS3({ folder: join(folder, 's3'), host: '127.0.0.1', port: 0, reserveBytes, logger, ...secrets })

export const connectS3 = (endpoint: string): S3ObjectStore =>
  new S3ObjectStore({
    endpoint,
    region: secrets.region,
    bucket: 'uploads',
    accessKey: secrets.accessKey,
    secretKey: secrets.secretKey,
  })

/** An S3 endpoint and a client of it whose bucket is there. */
export async function startTestObjects(
  folder: string,
): Promise<{ readonly objects: S3ObjectStore; readonly stop: () => Promise<void> }> {
  const s3 = await startTestS3(folder)
  const objects = connectS3(s3.endpoint)
  await objects.prepare()
  const stop = async () => {
    objects.close()
    await s3.stop()
  }
  return { objects, stop }
}

/** Keys of the objects that begin with `prefix`. */
export async function listed(objects: S3ObjectStore, prefix: string): Promise<string[]> {
  const found: string[] = []
  for await (const { key } of objects.list(prefix)) found.push(key)
  return found
}

export async function eventually<T>(
  what: string,
  look: () => Promise<T | undefined | false>,
  msMax = 20_000,
): Promise<T> {
  for (const until = Date.now() + msMax; Date.now() < until; ) {
    const found = await within(what, look(), msMax + 30_000)
    if (found) return found
    await systemTime.sleep(50)
  }
  throw new Error(`never happened: ${what}`)
}

/** What waits for ever would fail without saying where. */
export async function within<T>(what: string, work: Promise<T>, msMax = 45_000): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not done within ${msMax / 1000} s: ${what}`)), msMax)
  })
  try {
    return await Promise.race([work, late])
  } finally {
    clearTimeout(timer)
  }
}

export const remove = (folder: string): Promise<void> => rm(folder, { recursive: true, force: true })
