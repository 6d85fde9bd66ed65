import { FILE_STORE_BYTES } from '../stream/nats/server.ts'

/** Configuration files of the programs that a local cluster consists of beside our own. */

export interface NatsServerPlan {
  readonly name: string
  /** Where it listens, and others reach it. */
  readonly host: string
  readonly port: number
  readonly clusterPort: number
  readonly monitorPort: number
  readonly store: string
  readonly pidPath: string
}

/** User and account of everything in a local cluster; in production each role has a user of its own in the same account. */
const USER = 'percolate'
const ACCOUNT = 'PERCOLATE'
const PAYLOAD_BYTES_MAX = 8 * 1024 * 1024

export const natsUrl = (port: number, token: string, host = '127.0.0.1'): string =>
  `nats://${USER}:${token}@${host}:${port}`

export function natsConfig(server: NatsServerPlan, all: readonly NatsServerPlan[], token: string): string {
  const quoted = (text: string) => JSON.stringify(text)
  const routes = all.map(({ host, clusterPort }) => `"nats://percolate:${token}@${host}:${clusterPort}"`).join(', ')
  const cluster =
    all.length === 1
      ? []
      : [
          `cluster { name: "percolate", host: ${quoted(server.host)}, port: ${server.clusterPort}, authorization { user: percolate, password: ${quoted(token)} }, routes: [${routes}], no_advertise: true }`,
        ]
  return [
    `host: ${quoted(server.host)}`,
    `port: ${server.port}`,
    `server_name: ${quoted(server.name)}`,
    `pid_file: ${quoted(server.pidPath)}`,
    `http: ${quoted(`${server.host}:${server.monitorPort}`)}`,
    `accounts { ${ACCOUNT} { jetstream: enabled, users: [{ user: ${USER}, password: ${quoted(token)} }] } }`,
    `max_payload: ${PAYLOAD_BYTES_MAX}`,
    `jetstream { store_dir: ${quoted(server.store)}, max_file_store: ${FILE_STORE_BYTES} }`,
    ...cluster,
    '',
  ].join('\n')
}

/** Connections that the router has at once, over all of its frontends. */
const ROUTER_CONNECTIONS_MAX = 4096
/**
 * Of these, the share that one client's address may take. On one machine all clients have the same, as behind a proxy or NAT: it is meant to be out of the way of whoever opens many, and to keep places for other addresses
 * and for the page that says how the router is.
 */
const CLIENT_CONNECTIONS_SHARE = 0.75
/** Addresses that connections are counted of. */
const CLIENT_ADDRESSES_MAX = 16_384
/** Within which a client that has connected, or begun to send one, sends the head of a request; the node's own bound for it is longer. What is behind the head is the node's to wait for, and streams have no end. */
const REQUEST_HEAD_MS = 10_000
/** For how long a client may ask nothing on a connection that it has asked on; less than nodes keep theirs to the router. */
const KEEP_ALIVE_MS = 60_000

/** What nodes ask of one another, directly: nobody who comes through the router holds places of that. */
const PEER_SERVICE = '/percolate.v1.Peer/'

/** Behind the ids of all nodes, which are their places on the ring. */
const ACTIVATOR_ID = 10_000

export interface RouterPlan {
  readonly httpPort: number
  readonly grpcPort: number
  readonly statsPort: number
  /** Places for nodes, also for those that do not run now: one that is not ready gets nothing. */
  readonly nodes: readonly {
    readonly name: string
    readonly host: string
    readonly http: number
    readonly grpc: number
  }[]
  /** Where requests go when no node is ready; the controller says when. */
  readonly activator: { readonly host: string; readonly http: number; readonly grpc: number }
  readonly tier: string
  /** By which the controller keeps the list of servers. */
  readonly adminSocket: string
  /** Bounds that only tests make lower. */
  readonly connectionsMax?: number
  readonly requestHeadMs?: number
}

/**
 * HAProxy in Envoy's place: HTTP and gRPC of a tenant go to the same node by a consistent hash of its id. It tries another node only when a connection can't be made at all; anything else
 * could repeat a write.
 *
 * A client's connection over HTTP/2 has one of its own to each node that it turns to (`http-reuse never`): a node ends a connection on which too many calls are reset (Node takes 1,000, and 33 a second), and with
 * it the calls of whoever shares it. It keeps all of them (`max-session-srv-conns`): from the sixth node on, a call would have to connect, else.
 */
export function haproxyConfig({
  httpPort,
  grpcPort,
  statsPort,
  nodes,
  activator,
  tier,
  adminSocket,
  connectionsMax = ROUTER_CONNECTIONS_MAX,
  requestHeadMs = REQUEST_HEAD_MS,
}: RouterPlan): string {
  // Health is asked over HTTP/1 also where requests go over HTTP/2.
  const check = (http: number) => `check check-proto h1 port ${http} inter 250ms fall 2 rise 1`
  const servers = (port: 'http' | 'grpc') =>
    nodes
      .map(
        (node, n) =>
          `  server ${node.name} ${node.host}:${node[port]} id ${n + 1} ${port === 'grpc' ? 'proto h2 ' : ''}${check(node.http)}`,
      )
      .join('\n')
  const backend = (port: 'http' | 'grpc') => `backend ${port}_${tier}
  balance hdr(x-tenant-id)
  hash-type consistent sdbm avalanche
  option httpchk GET /ready
  http-check expect status 200
  option redispatch 1
  retries 5
  retry-on conn-failure
${port === 'grpc' ? '  http-reuse never\n' : ''}${servers(port)}
  server activator ${activator.host}:${activator[port]} id ${ACTIVATOR_ID} ${port === 'grpc' ? 'proto h2 ' : ''}${check(activator.http)} disabled
`
  const perClient = `  tcp-request connection track-sc0 src table clients
  tcp-request connection reject if { sc0_conn_cur gt ${Math.floor(connectionsMax * CLIENT_CONNECTIONS_SHARE)} }`
  // The gRPC frontend takes HTTP/2 alone, but does not say so where it binds: with `proto h2` there, HAProxy waits for the first byte of a connection as long as a stream may be silent.
  return `global
  log stderr format raw local0 warning
  stats socket ${adminSocket} mode 600 level admin
  maxconn ${connectionsMax}
defaults
  mode http
  timeout connect 1s
  timeout client 10m
  timeout server 10m
  timeout check 1s
  timeout http-request ${requestHeadMs}
  timeout http-keep-alive ${KEEP_ALIVE_MS}
  option http-keep-alive
  option http-ignore-probes
backend clients
  stick-table type ip size ${CLIENT_ADDRESSES_MAX} expire 1m store conn_cur
frontend http
  bind 127.0.0.1:${httpPort}
${perClient}
  default_backend http_${tier}
frontend grpc
  bind 127.0.0.1:${grpcPort}
${perClient}
  max-session-srv-conns ${nodes.length + 1}
  http-request reject unless { req.ver -m str 2.0 }
  http-request deny deny_status 403 if { path_beg ${PEER_SERVICE} }
  default_backend grpc_${tier}
frontend stats
  bind 127.0.0.1:${statsPort}
  http-request return status 200 content-type text/plain string "ok" if { path /health }
  stats enable
  stats uri /
${backend('http')}${backend('grpc')}`
}
