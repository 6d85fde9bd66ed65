import { PercolateError } from '../../base/errors.ts'
import { FairSemaphore } from '../../base/fair-semaphore.ts'
import { formatClock } from '../../clock/hlc.ts'
import { dominates, lagOf, vectorToObject } from '../../clock/vector.ts'
import { restated, saidBy } from '../../rem/late.ts'
import { mergeRecords } from '../../rem/merge.ts'
import { EMBEDDING_FIELD_PREFIX, EMPTY_RECORD, type Op, type RecordRef } from '../../rem/record.ts'
import { compareDigests } from '../../replication/anti-entropy.ts'
import type { CopyStatus, Digests } from '../../replication/peer.ts'
import type { Replica } from '../../replication/replica.ts'
import { encodeBookmark, foreignBookmark, namesNothing, parseBookmark } from '../../session/bookmark.ts'
import type { Session } from '../../session/session.ts'
import { write } from '../../session/write.ts'
import { decodeEntry } from '../../storage/codec.ts'
import { parseRecordKey } from '../../storage/keys.ts'
import { digestOf, splitVectors } from '../../tenant/vectors.ts'
import { isoTime, notFound, type OperationsContext } from './context.ts'

/** Differences that one comparison names, and ranges of keys that are looked through for them: as a rule each that differs has one. */
const DIFFERENCES_MAX = 10
/** Comparisons at once. Each reads all of a tenant, on every holder. */
const CHECKS_MAX = 2
const CHECKS_WAITING_MAX = 32
const TENANT_CHECKS_WAITING_MAX = 4

/** The entities at both ends of an edge. */
const endsOf = ({ kind, key }: RecordRef): RecordRef[] =>
  kind === 'edge' ? [key[0]!, key[2]!].map(id => ({ kind: 'entity', key: [id] })) : []

/** An op that names vectors by their digests, with the vectors, which `ops` carry. */
function withVectors(op: Op, ops: readonly Op[]): Op {
  const fields = { ...op.fields }
  for (const other of ops) {
    // Only resources have vectors, and one part of a key.
    if (other.kind !== op.kind || other.key[0] !== op.key[0]) continue
    for (const { model, vector } of splitVectors(other).vectors) {
      const name = EMBEDDING_FIELD_PREFIX + model
      const digest = fields[name]
      if (digest instanceof Uint8Array && digestOf(vector).equals(digest)) fields[name] = vector
    }
  }
  return { ...op, fields }
}

const unknownTenant = (tenant: string) =>
  new PercolateError('NOT_FOUND', `The cluster knows no tenant "${tenant}": nothing has been written to it.`, {
    field: 'X-Tenant-ID',
  })

/** What a tenant can learn of its copies, and what an operator can do about what was set aside. */
export class ReplicationOperations {
  readonly #context: OperationsContext
  readonly #checks = new FairSemaphore({
    permits: CHECKS_MAX,
    perKeyMax: 1,
    waitersMax: CHECKS_WAITING_MAX,
    waitersPerKeyMax: TENANT_CHECKS_WAITING_MAX,
    name: 'a comparison of holders',
  })

  constructor(context: OperationsContext) {
    this.#context = context
  }

  /** Who holds the tenant, how far each has come, and whether a given bookmark is on them. */
  async describe(call: Session, bookmarkText: string | undefined) {
    const replica = this.#replica()
    const bookmark = bookmarkText === undefined ? undefined : parseBookmark(bookmarkText, 'bookmark')
    const placement = replica.directory.placement(call.tenant) ?? (await replica.router.lookups.look(call.tenant, call))
    if (!placement) throw unknownTenant(call.tenant)
    if (bookmark && !namesNothing(bookmark) && bookmark.incarnation !== placement.incarnation)
      throw foreignBookmark('bookmark')
    const statuses = await this.#statuses(call, replica)
    const ahead = new Map<string, number>()
    for (const status of statuses.values())
      for (const [origin, sequence] of status?.vector ?? [])
        ahead.set(origin, Math.max(ahead.get(origin) ?? 0, sequence))
    const holders = placement.holders.map(({ node, state }) => {
      const status = statuses.get(node)
      const member = replica.directory.member(node)
      return {
        node,
        zone: member?.zone ?? null,
        state,
        live: replica.directory.isLive(node),
        copy: status?.state ?? 'unreachable',
        vector: status ? vectorToObject(status.vector) : null,
        lag: status ? lagOf(status.vector, ahead) : null,
        outbox: status?.outboxEntries ?? null,
        stream_sequence: status?.streamSequence ?? null,
        floor: status?.floor ? isoTime(status.floor.clock.wall) : null,
        late: status?.late ?? null,
        ...(bookmark ? { has_bookmark: status ? dominates(status.vector, bookmark.vector) : null } : {}),
      }
    })
    return {
      tenant: call.tenant,
      incarnation: placement.incarnation,
      home: placement.home ?? null,
      epoch: placement.epoch,
      holders,
      bookmark: encodeBookmark({ incarnation: placement.incarnation, vector: ahead }),
      ...(bookmark
        ? {
            replicated: holders.filter(holder => holder.has_bookmark === true).length >= 2,
          }
        : {}),
    }
  }

  /** Compares the holders with one another; names the first differences. TOO_BUSY when too many wait for that; it ends with its client, when the holder that is asked has answered. */
  async check(call: Session) {
    const release = await this.#checks.acquire(call.tenant, call.signal)
    try {
      return await this.#compare(call)
    } finally {
      release()
    }
  }

  async #compare(call: Session) {
    const replica = this.#replica()
    const placement = replica.directory.placement(call.tenant) ?? (await replica.router.lookups.look(call.tenant, call))
    if (!placement) throw unknownTenant(call.tenant)
    const { tenant } = call
    const { incarnation } = placement
    const digests = new Map<string, Digests | undefined>()
    for (const { node, state } of placement.holders) {
      if (state === 'joining') continue
      call.throwIfEnded()
      const answer = await this.#handlers(replica, node)
        .digests(tenant, incarnation)
        .catch(() => undefined)
      digests.set(node, answer)
    }
    const [first, ...others] = [...digests].filter((pair): pair is [string, Digests] => pair[1] !== undefined)
    const comparisons = []
    for (const [node, theirs] of first ? others : []) {
      const { verdict, buckets } = compareDigests(first![1], theirs)
      const differences = []
      for (const bucket of buckets.slice(0, DIFFERENCES_MAX)) {
        if (differences.length >= DIFFERENCES_MAX) break
        call.throwIfEnded()
        const [here, there] = await Promise.all([
          this.#handlers(replica, first![0]).bucket(tenant, incarnation, bucket),
          this.#handlers(replica, node).bucket(tenant, incarnation, bucket),
        ])
        const known = new Map(here.map(({ key, digest }) => [key.toString('latin1'), digest]))
        for (const { key, digest } of there) {
          const mine = known.get(key.toString('latin1'))
          known.delete(key.toString('latin1'))
          if (!mine?.equals(digest)) differences.push({ ...refOf(key), only: mine ? null : node })
        }
        for (const key of known.keys()) differences.push({ ...refOf(Buffer.from(key, 'latin1')), only: first![0] })
      }
      comparisons.push({ nodes: [first![0], node], verdict, differences: differences.slice(0, DIFFERENCES_MAX) })
    }
    const unreachable = [...digests].filter(([, digest]) => digest === undefined).map(([node]) => node)
    const isEqual = comparisons.every(({ verdict }) => verdict === 'equal') && unreachable.length === 0
    return { tenant, incarnation, equal: isEqual, unreachable, comparisons }
  }

  /** Writes that came from below the floor, on any holder: from a disk that was away for longer than deletes are remembered. `unreachable`: holders that could not be asked, and may have more. */
  async late(call: Session) {
    const { found, unreachable } = await this.#lateOf(call)
    return {
      unreachable,
      results: [...found.values()].map(({ nodes, entry }) => ({
        origin: entry.origin,
        sequence: entry.sequence,
        nodes,
        ops: entry.ops.map(op => ({
          kind: op.kind,
          key: [...op.key],
          action: op.action,
          clock: formatClock(op.clock),
          fields: Object.fromEntries(
            Object.entries(op.fields).map(([name, value]) => [name, value instanceof Uint8Array ? '(bytes)' : value]),
          ),
        })),
      })),
    }
  }

  /**
   * Applies of a late write what nothing later has changed, as of now, or discards it; then no holder keeps it. `kept` of an applied one: records of it that stay as they are, since all that it says of them is there,
   * or was overwritten or deleted later.
   */
  async resolveLate(call: Session, origin: string, sequence: number, action: 'apply' | 'discard') {
    const replica = this.#replica()
    const { found: all } = await this.#lateOf(call)
    const name = `${origin} ${sequence}`
    const found = all.get(name)
    if (!found) throw notFound('late write', `${origin}/${sequence}`)
    all.delete(name)
    const others = saidBy([...all.values()].flatMap(({ entry }) => entry.ops.map(op => splitVectors(op).op)))
    const othersOf = new Map(others.map(({ ref, record }) => [JSON.stringify([ref.kind, ref.key]), record]))
    const other = ({ kind, key }: RecordRef) => othersOf.get(JSON.stringify([kind, key])) ?? EMPTY_RECORD
    const { ops } = found.entry
    let kept: readonly RecordRef[] = []
    if (action === 'apply')
      kept = await write(
        this.#context,
        call,
        async context => {
          const again: Op[] = []
          const standing: RecordRef[] = []
          const read = async (ref: RecordRef) => (await context.read(ref)) ?? EMPTY_RECORD
          for (const said of saidBy(ops.map(op => splitVectors(op).op))) {
            const ends = await Promise.all(endsOf(said.ref).map(async ref => mergeRecords(await read(ref), other(ref))))
            const op = restated(said, await read(said.ref), context.clock, { others: other(said.ref), ends })
            if (op) again.push(withVectors(op, ops))
            else standing.push(said.ref)
          }
          return { ops: again, result: standing }
        },
        // As of now, whatever the request says of its own clock.
        { weight: ops.length, touches: ops, asOf: undefined },
      )
    for (const node of found.nodes) await this.#handlers(replica, node).dismissLate(call.tenant, origin, sequence)
    return action === 'apply' ? { origin, sequence, applied: true, kept } : { origin, sequence, discarded: true }
  }

  /** Entries from a peer; merged by the same rules as the stream's. */
  async sync(call: Session, entries: readonly string[]) {
    const vector = await this.#replica().service.push(
      call.tenant,
      entries.map((text, n) => {
        if (!/^[A-Za-z0-9+/_-]*={0,2}$/.test(text))
          throw new PercolateError('INVALID_ARGUMENT', `entries[${n}] must be base64.`, { field: `entries[${n}]` })
        return Buffer.from(text, 'base64')
      }),
    )
    return { vector: vectorToObject(vector) }
  }

  async #lateOf(call: Session) {
    const replica = this.#replica()
    const placement = replica.directory.placement(call.tenant) ?? (await replica.router.lookups.look(call.tenant, call))
    const found = new Map<string, { nodes: string[]; entry: ReturnType<typeof decodeEntry> }>()
    const unreachable: string[] = []
    for (const { node } of placement?.holders ?? []) {
      const entries = await this.#handlers(replica, node)
        .late(call.tenant)
        .catch(() => undefined)
      if (!entries) unreachable.push(node)
      for (const bytes of entries ?? []) {
        const entry = decodeEntry(bytes)
        const name = `${entry.origin} ${entry.sequence}`
        const known = found.get(name)
        if (known) known.nodes.push(node)
        else found.set(name, { nodes: [node], entry })
      }
    }
    return { found, unreachable }
  }

  async #statuses(call: Session, replica: Replica): Promise<Map<string, CopyStatus | undefined>> {
    const { holders } = replica.directory.placement(call.tenant)!
    const statuses = await Promise.all(
      holders.map(async ({ node }) => {
        const status = await this.#handlers(replica, node)
          .status(call.tenant)
          .catch(() => undefined)
        return [node, status] as const
      }),
    )
    return new Map(statuses)
  }

  #handlers(replica: Replica, node: string) {
    return node === replica.service.node ? replica.service : replica.peers.to(node)
  }

  #replica(): Replica {
    const { replica } = this.#context
    if (replica) return replica
    throw new PercolateError(
      'ROUTE_NOT_FOUND',
      'This node runs without NATS (PERCOLATE_NATS_URL), and so replicates nothing.',
    )
  }
}

function refOf(key: Buffer): { kind: string; key: string[] } {
  const { kind, key: parts } = parseRecordKey(key)
  return { kind, key: [...parts] }
}
