import type { FastifyInstance } from 'fastify'
import { createHttpServer } from '../../src/api/http/server.ts'
import { Connections } from '../../src/base/connections.ts'
import { Metrics } from '../../src/base/metrics.ts'
import { Probes } from '../../src/base/probes.ts'
import { logger } from './running.ts'

const CONNECTIONS_MAX = 100
const BODY_BYTES_MAX = 1024 * 1024
const PATIENCE_MS = 60_000

/** A server as every role has one, without routes of its own. */
export const bareServer = (): FastifyInstance =>
  createHttpServer({
    logger,
    metrics: new Metrics(),
    probes: new Probes(1000),
    connections: new Connections(CONNECTIONS_MAX),
    bodyBytesMax: BODY_BYTES_MAX,
    requestReadMs: PATIENCE_MS,
    readerStallMs: PATIENCE_MS,
  })
