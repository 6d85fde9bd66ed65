import { type ErrorCode, errorTable } from '../../src/base/errors.ts'
import { ask } from '../ask.ts'
import { GrpcAsker } from '../ask-grpc.ts'
import { isRoutersStatus, undocumented } from '../lost-answers.ts'

/** What a write came to, whatever the protocol. */
export type Outcome =
  | {
      readonly kind: 'done'
      readonly clock: string
      readonly reached: string
      readonly node: string
      readonly bookmark: string
      /** HTTP alone answers a write with the entity as it stands by then, which may be another's write. */
      readonly standing: { readonly value: unknown; readonly etag: string } | undefined
    }
  /** Refused for sure: it never happened. */
  | { readonly kind: 'refused'; readonly code: string }
  /** It may have happened, or happen yet. */
  | { readonly kind: 'open'; readonly code: string }

/** What a read of an entity came to. */
export type Found =
  | { readonly kind: 'found'; readonly value: unknown; readonly etag: string; readonly node: string }
  | { readonly kind: 'missing' }
  | { readonly kind: 'failed'; readonly code: string }

/** Names of headers without `x-percolate-`: durability, bookmark, consistency. */
export type Wishes = Readonly<Record<string, string>>

/** A way into the cluster: one protocol to one address. */
export interface Door {
  readonly name: string
  putEntity(tenant: string, id: string, value: unknown, wishes: Wishes, ifMatch?: string): Promise<Outcome>
  deleteEntity(tenant: string, id: string, wishes: Wishes): Promise<Outcome>
  getEntity(tenant: string, id: string, wishes: Wishes): Promise<Found>
  /** A resource whose embedding the node has to ask for; resolves with its id. */
  putResource(tenant: string, content: string, wishes: Wishes): Promise<Outcome & { readonly id?: string }>
}

/** Statuses after which nothing has been written. */
const REFUSED = [400, 404, 409, 412]

const headersOf = (tenant: string, wishes: Wishes): Record<string, string> => ({
  'x-tenant-id': tenant,
  ...Object.fromEntries(Object.entries(wishes).map(([name, value]) => [`x-percolate-${name}`, value])),
})

const failed = (status: number, code: string): Outcome => ({
  kind: REFUSED.includes(status) ? 'refused' : 'open',
  code,
})

/** Of an HTTP answer that is none that was hoped for. */
function codeOf(status: number, body: { readonly code?: unknown } | undefined): string {
  if (body?.code !== undefined) return String(body.code)
  return isRoutersStatus(status) ? `status ${status}` : undocumented(`status ${status}`)
}

export class HttpDoor implements Door {
  readonly name: string
  readonly #url: string

  constructor(url: string, name: string) {
    this.#url = `${url}/api/v1`
    this.name = `HTTP ${name}`
  }

  putEntity(tenant: string, id: string, value: unknown, wishes: Wishes, ifMatch?: string): Promise<Outcome> {
    return this.#write(`/entities/${id}`, 'PUT', tenant, wishes, { properties: { v: value } }, ifMatch)
  }

  deleteEntity(tenant: string, id: string, wishes: Wishes): Promise<Outcome> {
    return this.#write(`/entities/${id}`, 'DELETE', tenant, wishes)
  }

  putResource(tenant: string, content: string, wishes: Wishes): Promise<Outcome & { id?: string }> {
    return this.#write('/resources', 'POST', tenant, wishes, { content })
  }

  async getEntity(tenant: string, id: string, wishes: Wishes): Promise<Found> {
    try {
      const { status, headers, body } = await ask(`${this.#url}/entities/${id}`, 'GET', headersOf(tenant, wishes))
      if (status === 200)
        return {
          kind: 'found',
          value: body.properties.v,
          etag: String(headers.etag ?? ''),
          node: String(headers['x-percolate-node']),
        }
      return status === 404 ? { kind: 'missing' } : { kind: 'failed', code: codeOf(status, body) }
    } catch (error) {
      return { kind: 'failed', code: (error as Error).message }
    }
  }

  async #write(
    path: string,
    method: string,
    tenant: string,
    wishes: Wishes,
    input?: unknown,
    ifMatch?: string,
  ): Promise<Outcome & { id?: string }> {
    const headers = { ...headersOf(tenant, wishes), ...(ifMatch === undefined ? {} : { 'if-match': ifMatch }) }
    try {
      const answer = await ask(this.#url + path, method, headers, input)
      const clock = String(answer.headers['x-percolate-clock'] ?? '')
      if (answer.status < 200 || answer.status >= 300 || clock === '')
        return failed(answer.status, codeOf(answer.status, answer.body))
      return {
        kind: 'done',
        clock,
        reached: String(answer.headers['x-percolate-durability']),
        node: String(answer.headers['x-percolate-node']),
        bookmark: String(answer.headers['x-percolate-bookmark'] ?? ''),
        standing:
          answer.headers.etag === undefined
            ? undefined
            : { value: answer.body?.properties?.v, etag: String(answer.headers.etag) },
        ...(answer.body?.ids ? { id: String(answer.body.ids[0]) } : {}),
      }
    } catch (error) {
      return { kind: 'open', code: (error as Error).message }
    }
  }
}

export class GrpcDoor implements Door {
  readonly name: string
  readonly asker: GrpcAsker

  constructor(address: string, name: string) {
    this.asker = new GrpcAsker(address)
    this.name = `gRPC ${name}`
  }

  putEntity(tenant: string, id: string, value: unknown, wishes: Wishes, ifMatch?: string): Promise<Outcome> {
    // As google.protobuf.Struct has it.
    const v = typeof value === 'number' ? { numberValue: value } : { stringValue: String(value) }
    const entities = [{ id, properties: { fields: { v } } }]
    return this.#write('PutEntities', tenant, wishes, {
      entities,
      ...(ifMatch === undefined ? {} : { if_match: ifMatch }),
    })
  }

  deleteEntity(tenant: string, id: string, wishes: Wishes): Promise<Outcome> {
    return this.#write('DeleteEntity', tenant, wishes, { id })
  }

  putResource(tenant: string, content: string, wishes: Wishes): Promise<Outcome & { id?: string }> {
    return this.#write('PutResources', tenant, wishes, { resources: [{ content }] })
  }

  async getEntity(tenant: string, id: string, wishes: Wishes): Promise<Found> {
    const { failure, metadata, body } = await this.asker.ask('GetEntity', headersOf(tenant, wishes), { id })
    if (failure === undefined) {
      const { kind, ...value } = body.properties.fields.v
      return {
        kind: 'found',
        value: kind ? value[kind] : (value.numberValue ?? value.stringValue),
        etag: String(body.etag ?? ''),
        node: metadata['x-percolate-node'] ?? '',
      }
    }
    return metadata['percolate-code'] === 'NOT_FOUND'
      ? { kind: 'missing' }
      : { kind: 'failed', code: metadata['percolate-code'] ?? failure }
  }

  async #write(method: string, tenant: string, wishes: Wishes, message: unknown): Promise<Outcome & { id?: string }> {
    const { failure, metadata, body } = await this.asker.ask(method, headersOf(tenant, wishes), message)
    const code = metadata['percolate-code']
    if (failure !== undefined) return failed(code ? errorTable[code as ErrorCode].http : 0, code ?? failure)
    const clock = metadata['x-percolate-clock']
    if (clock === undefined) return { kind: 'open', code: 'an answer without a clock' }
    return {
      kind: 'done',
      clock,
      reached: metadata['x-percolate-durability'] ?? '',
      node: metadata['x-percolate-node'] ?? '',
      bookmark: metadata['x-percolate-bookmark'] ?? '',
      standing: undefined,
      ...(body?.ids ? { id: String(body.ids[0]) } : {}),
    }
  }
}

/** Both protocols through the router and straight to every node. */
export function openDoors(addresses: {
  readonly api: string
  readonly grpc: string
  readonly nodes: readonly { readonly name: string; readonly url: string; readonly grpc: string }[]
}): { readonly router: readonly Door[]; readonly nodes: ReadonlyMap<string, readonly Door[]>; close(): void } {
  const grpc: GrpcDoor[] = []
  const pair = (url: string, address: string, name: string): readonly Door[] => {
    const door = new GrpcDoor(address, name)
    grpc.push(door)
    return [new HttpDoor(url, name), door]
  }
  return {
    router: pair(addresses.api, addresses.grpc, 'router'),
    nodes: new Map(addresses.nodes.map(node => [node.name, pair(node.url, node.grpc, node.name)])),
    close: () => {
      for (const { asker } of grpc) asker.close()
    },
  }
}
