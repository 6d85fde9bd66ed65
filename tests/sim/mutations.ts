import type { FaultKind } from './faults.ts'
import type { Checker } from './objections.ts'

/**
 * Bugs planted on purpose, each in the compiled code of one file, to show that the simulator's checkers catch them. `from` must occur exactly once.
 */
export interface Mutation {
  readonly name: string
  readonly why: string
  /** Caught in a world with the wide faults only. */
  readonly isWide?: boolean
  /** Copies of each tenant in the lives that it is looked for in. */
  readonly copies?: number
  /** The lives that it is looked for in have these faults alone: what it needs is rare among all of them. */
  readonly focus?: readonly FaultKind[]
  /** Caught only when one of these objects; any checker by default. */
  readonly by?: readonly Checker[]
  readonly edits: readonly { readonly file: string; readonly from: string; readonly to: string }[]
}

const edit = (file: string, from: string, to: string) => ({ file: `src/${file}.js`, from, to })

export const mutations: readonly Mutation[] = [
  {
    name: 'dual write',
    why: 'the version vector is written before the records instead of with them',
    edits: [
      edit(
        'tenant/writer',
        'await this.#tenant.kv.write(batch.operations, { sync: true, before });',
        'for (const isVector of [true, false]) await this.#tenant.kv.write([...batch.operations].filter(o => (o.key[0] === 0x51) === isVector), { sync: true, before });',
      ),
    ],
  },
  {
    name: 'unsynced acknowledgement',
    why: 'a write is acknowledged before it is fsynced',
    edits: [
      edit(
        'tenant/writer',
        'kv.write(batch.operations, { sync: true, before })',
        'kv.write(batch.operations, { sync: false, before })',
      ),
    ],
  },
  {
    name: 'reused message id',
    why: 'the message id does not name the origin, so that the stream takes one entry for a repetition of another',
    // biome-ignore-start lint/suspicious/noTemplateCurlyInString: code that is looked for in code
    edits: [edit('replication/publisher', '`${incarnation}.${origin}.${sequence}`', '`${incarnation}.${sequence}`')],
    // biome-ignore-end lint/suspicious/noTemplateCurlyInString: see above
  },
  {
    name: 'early outbox delete',
    why: 'entries are deleted whether or not the stream has acknowledged them',
    edits: [
      edit('replication/publisher', 'failed < 0 ? window.entries : window.entries.slice(0, failed)', 'window.entries'),
    ],
  },
  {
    name: 'swallowed gap',
    why: 'an entry is applied although the one before it is missing',
    edits: [edit('tenant/tenant', 'entry.sequence > last + 1', 'entry.sequence > last + 1e9')],
  },
  {
    name: 'skipped entry',
    why: 'now and then an entry moves the vector and changes nothing',
    edits: [
      edit(
        'tenant/staging',
        'for (const op of entry.ops) {',
        'for (const op of entry.sequence % 5 === 0 ? [] : entry.ops) {',
      ),
    ],
  },
  {
    name: 'resurrecting merge',
    why: 'a put forgets the delete that was there before',
    edits: [
      edit(
        'rem/merge',
        'const del = laterClock(a.del, b.del);',
        'const del = b.put ? b.del : laterClock(a.del, b.del);',
      ),
    ],
  },
  {
    name: 'last arrival wins',
    why: 'of two values of a register the one that arrives later wins, not the one that was written later',
    edits: [edit('rem/merge', 'return order > 0 ? a : b;', 'return b;')],
  },
  {
    name: 'reaping too soon',
    why: 'an idle stream is deleted without looking whether its holders have read it',
    edits: [
      edit(
        'replication/controller',
        'if (!(await this.#coverage(tenant, info.incarnation, info.lastSequence)))',
        'if (false)',
      ),
      edit(
        'replication/controller',
        'const covered = await this.#coverage(tenant, sealed.incarnation, sealed.lastSequence);',
        'const covered = new Map();',
      ),
      edit('replication/controller', 'time.now() - info.lastAtMs > streamIdleMs', 'time.now() - info.lastAtMs > 100'),
    ],
  },
  {
    name: 'stale home',
    why: 'a node decides on conditional writes because it was the home once',
    edits: [
      edit('replication/homes', 'holdsLease(tenant) {', 'holdsLease(tenant) { return true;'),
      edit('replication/homes', 'return this.#claims.get(tenant).epoch;', 'return 0;'),
      edit('replication/homes', '!placement || !copies.isCurrent(tenant) || !membership.hasLease', '!placement'),
      edit('replication/homes', 'if (this.#hasClaimed(tenant, placement.epoch))', 'if (true)'),
    ],
  },
  {
    name: 'bookmark ignored',
    why: 'a read with a bookmark does not wait for it',
    edits: [
      edit('session/gate', 'if (await this.#hasAll(request, bookmark))', 'if (true)'),
      edit('session/read', 'if (replica && bookmark &&', 'if (false && replica && bookmark &&'),
    ],
  },
  {
    name: 'durability not waited for',
    why: 'a write says that it is in the stream before the stream has said so',
    edits: [edit('replication/replica', "return published ? 'stream' : 'local';", "return 'stream';")],
  },
  {
    name: 'late write merged',
    why: 'what comes from below the floor is merged, by copies and in copies that were away',
    edits: [
      edit('tenant/staging', 'return (this.#floor !== undefined &&', 'return (false && this.#floor !== undefined &&'),
      edit('replication/copies', 'if (await this.#reconciler.isBelowFloor(tenant, before)) {', 'if (false) {'),
      edit('replication/reconciler', 'if (!isBelow)', 'if (true)'),
      edit('replication/transfer', 'if (floor && !dominates(theirs, floor.vector))', 'if (false)'),
      edit('replication/transfer', 'if (theirFloor && !open.covers(theirFloor.vector))', 'if (false)'),
      edit('replication/transfer', 'if (theirFloor && isUnseenBelow(', 'if (false && isUnseenBelow('),
      edit(
        'replication/copies',
        "if (this.state(tenant) === 'current' && (await this.#reconciler.isBelowFloor(tenant, [status])))",
        'if (false)',
      ),
      edit('replication/maintenance', 'if (await reconciler.isBelowFloor(tenant, [status]))', 'if (false)'),
    ],
  },
  {
    name: 'sequence given out twice',
    why: 'a disk that went back in time goes on under its old origin',
    edits: [edit('tenant/tenant', 'async changeOrigin() {', 'async changeOrigin() { return;')],
  },
  {
    name: 'dropped without a look',
    why: 'a copy is deleted as ordered, whether or not the others have what it has',
    edits: [
      edit('replication/drop', 'if (own && own.outbox > 0)', 'if (false)'),
      edit(
        'replication/drop',
        'const wanted = Math.max(1, Math.min(replicas, others.length));',
        'const wanted = 0; covering.push({ node });',
      ),
      edit('replication/drop', 'open.outbox.entries === 0 &&', ''),
      edit('replication/drop', 'covering.every(status => dominates(status.vector, open.vector)) &&', ''),
    ],
  },
  {
    name: 'hole never filled',
    why: 'bringing a copy up to date from another one does nothing',
    edits: [
      edit('replication/reconciler', 'async reconcile(tenant, from) {', 'async reconcile(tenant, from) { return true;'),
    ],
  },
  {
    name: 'vector from half a transfer',
    why: 'a joining copy takes over the vector before the records are there',
    edits: [
      edit(
        'replication/transfer',
        'const { vector: sourceVector, skipped } = head;',
        'const { vector: sourceVector, skipped } = head; if (resumable) await same(open => open.finishJoin(async staging => staging.joinVector(vector)));',
      ),
    ],
  },
  {
    name: 'tenant made at the door',
    why: 'the gate enters an unknown tenant into the directory before the request has been read',
    isWide: true,
    by: ['refused requests'],
    edits: [
      edit(
        'session/gate',
        'const route = await replica.router.route({ tenant, needsHome, forwardedBy, ending: endingOf(request) });',
        "const route = await replica.router.route({ tenant, needsHome, forwardedBy, ending: endingOf(request) }); if (access === 'write' && route.kind === 'local') await replica.router.enter(tenant);",
      ),
    ],
  },
  {
    name: 'tenant not rehearsed',
    why: 'a first write is not tried on an empty tenant before the tenant is made',
    isWide: true,
    by: ['refused requests'],
    edits: [
      edit(
        'session/write',
        'const { ops, result } = await rehearse(context, plan, commit);',
        'const { ops, result } = { ops: [0], result: undefined };',
      ),
    ],
  },
  {
    name: 'silent is gone',
    why: 'a home is taken because the watch has told nothing of it for longer than a lease',
    isWide: true,
    by: ['one home', 'linearizability'],
    edits: [
      edit(
        'replication/homes',
        'await proof.isOver(home);',
        'directory.isLive(home) ? undefined : { decidedBelowMs: 0 };',
      ),
    ],
  },
  {
    name: 'taken unread',
    why: 'a home is taken whether or not its stream has been read to the end',
    isWide: true,
    focus: ['home lost unread'],
    by: ['linearizability'],
    edits: [
      edit(
        'replication/homes',
        'if (!(await follower.catchUp(tenant)))\n                return false;\n            if (!(await this.#hasAllDecided',
        'await follower.catchUp(tenant, 1);\n            if (!(await this.#hasAllDecided',
      ),
    ],
  },
  {
    name: 'home taken unheard',
    why: 'a home is taken without hearing the other holders, when the stream may have lost what was decided',
    isWide: true,
    copies: 3,
    focus: ['holder left behind'],
    by: ['linearizability'],
    edits: [edit('replication/losses', 'if (!(await this.isHeard(tenant, lost, silent, statuses)))\n', 'if (false)\n')],
  },
  {
    name: 'stream not known again',
    why: 'which stream a copy reads is not written down before its position is, and another one is taken for it after a crash',
    isWide: true,
    copies: 3,
    focus: ['holder left behind'],
    by: ['linearizability'],
    edits: [
      edit('replication/follower', 'if (kept?.stream !== info.incarnation)\n', 'if (false)\n'),
      edit(
        'replication/follower',
        '(kept?.stream !== info.incarnation && !hasReaped)',
        '(kept !== undefined && kept.stream !== info.incarnation && !hasReaped)',
      ),
    ],
  },
  {
    name: 'caught up unread',
    why: 'a stream counts as read to its end when the time for it is over',
    isWide: true,
    focus: ['home lost unread'],
    by: ['linearizability'],
    edits: [
      edit(
        'replication/follower',
        'return (await this.readToEnd(tenant, timeoutMs)) &&',
        'await this.readToEnd(tenant, Math.min(timeoutMs, 500)); return',
      ),
    ],
  },
  {
    name: 'drop not looked at again',
    why: 'what was written to a copy while it was compared with the others goes with it',
    isWide: true,
    focus: ['copy moved under load'],
    by: ['acknowledged writes'],
    edits: [
      edit('replication/drop', 'await pool.alone(tenant,', 'await pool.use(tenant,'),
      edit('replication/drop', 'open.outbox.entries === 0 &&', ''),
      edit('replication/drop', 'covering.every(status => dominates(status.vector, open.vector)) &&', ''),
    ],
  },
  {
    name: 'feed skips what was reconciled',
    why: 'what came from another copy as records is not told to feeds, whose position moves on all the same',
    isWide: true,
    by: ['feeds'],
    edits: [
      edit('tenant/staging', 'if (merged.length === 0 || silent)', 'if (true)'),
      edit(
        'tenant/staging',
        'this.#log(encodeMovedItem(from, moves, [before.mark, after.mark]));\n        this.#setVector',
        'this.#log(encodeMovedItem(this.#state.changes + 1, moves, [before.mark, after.mark]));\n        this.#setVector',
      ),
    ],
  },
  {
    name: 'drain tells what was read',
    why: 'a feed that ends because its node drains gives a cursor behind changes that it has read and not told',
    isWide: true,
    focus: ['busy drain'],
    by: ['feeds'],
    edits: [
      edit('api/operations/changes', 'throw feedsEnd(given)', 'throw feedsEnd(reader && at(reader.position))'),
      edit('api/operations/changes', 'if (signal.aborted)\n                    break;', ''),
    ],
  },
  {
    name: 'feed holds its lease',
    why: 'a feed keeps its tenant open while it waits',
    isWide: true,
    by: ['rest'],
    edits: [
      edit(
        'api/operations/changes',
        'while (!(await watch.wait(heartbeatMs, signal))',
        'while (!(await pool.use(call.tenant, () => watch.wait(heartbeatMs, signal)))',
      ),
    ],
  },
  {
    name: 'full passed over',
    why: 'an entry for which there is no room behind a gap is never read again',
    isWide: true,
    focus: ['entries lost for good'],
    by: ['honest copies', 'acknowledged writes'],
    edits: [edit('replication/follower', "else if (offered === 'full')", 'else if (false)')],
  },
  {
    name: 'rotten copy kept',
    why: 'a copy whose database is damaged stays in service, and is not made anew',
    isWide: true,
    edits: [edit('replication/copies', 'onCorrupt(tenant, error, when) {', 'onCorrupt(tenant, error, when) { return;')],
  },
  {
    name: 'life goes on',
    why: 'a node whose machine went down goes on under the origin that it had, although its disk may have forgotten what it had given numbers to',
    isWide: true,
    focus: ['disk lies', 'NATS away', 'node cut from NATS'],
    by: ['feeds', 'equal copies'],
    edits: [edit('tenant/disk-life', 'const goesOn =', 'const goesOn = true ||')],
  },
  {
    name: 'deaf to a new directory',
    why: 'a directory that was lost and made anew is followed from the revision that the old one had come to',
    focus: ['directory lost'],
    by: ['recovery'],
    edits: [
      edit('replication/directory-life', 'if (!this.#opened || !this.#isBegun)', 'if (true)'),
      edit(
        'replication/directory-life',
        'const isBack = this.#isBegun && revision <= this.#wroteLast;',
        'const isBack = false;',
      ),
    ],
  },
]
