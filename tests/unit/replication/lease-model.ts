/**
 * A small model of a home and its lease, to be looked at in every interleaving: one holder H, whose lease may lapse, and one or two challengers. A challenger's own lease is taken for good, so that what it
 * decides once it has the home it decides at once; it is the holder's that is in question. The model has the bucket (H's
 * member record, the placement), the tenant's stream, H's clock that runs slower than the challengers' by as much as is assumed, watches that tell late or not at all, reads that are answered from the past,
 * answers that are lost, and any pause between any two steps of anybody. `src/replication/membership.ts`, `lease-proof.ts` and `homes.ts` are what it models; step by step, nothing is atomic that is not
 * one request or one turn of the event loop there.
 */

/** Rules that are wrong, each of which must be found out. */
export const wrongRules = [
  'gone by the silence of a watch',
  'fence by a read',
  'no margin for drift',
  'lease counted from the answer',
  'claims outlive their term',
  'placement read after the proof',
  'caught up before the proof',
  'no look after the commit',
  'a handover keeps the claim until it is answered',
] as const
export type WrongRule = (typeof wrongRules)[number]

/** A lease, in ticks of a challenger's clock; H counts one less, and its clock may lose one tick in this many. */
const LEASE = 3
const MARGIN = 1
const NONE = 0

const phases = { idle: 0, read: 1, proven: 2, caughtUp: 3 } as const
const deciding = { idle: 0, checked: 1, published: 2 } as const
const asking = { idle: 0, sent: 1, renewed: 2, conflict: 3 } as const

interface Node {
  /** The version that this node knows to be the last. */
  version: number
  claimEpoch: number
  phase: number
  phaseHome: number
  phaseEpoch: number
}

interface Holder extends Node {
  /** What it believes of the placement. */
  knownHome: number
  knownEpoch: number
  decision: number
  decisionEpoch: number
  left: number
  term: number
  claimTerm: number
  phaseTerm: number
  isBroken: number
  isLeaving: number
  revision: number
  asking: number
  askedFor: number
  askedRevision: number
  /** Ticks since its clock lost one. */
  sinceSlow: number
}

interface Challenger extends Node {
  /** The revision of H's record that it has seen, and for how long. */
  seen: number
  waited: number
}

interface State {
  record: { revision: number; isEnded: number }
  placement: { home: number; epoch: number }
  stream: number
  /** Whether a decision on the version at the start was acknowledged. */
  acked: number
  holder: Holder
  challengers: Challenger[]
}

export interface Explored {
  readonly states: number
  /** The steps to two decisions on one version; undefined: there are none. */
  readonly violation: readonly string[] | undefined
  /** Steps that occurred, to see that the model does something. */
  readonly steps: ReadonlySet<string>
}

const HOLDER = 1
const node = (): Node => ({ version: 0, claimEpoch: NONE, phase: phases.idle, phaseHome: NONE, phaseEpoch: NONE })

const begin = (challengers: number, lease: number): State => ({
  record: { revision: 1, isEnded: 0 },
  placement: { home: HOLDER, epoch: 1 },
  stream: 0,
  acked: 0,
  holder: {
    ...node(),
    claimEpoch: 1,
    knownHome: HOLDER,
    knownEpoch: 1,
    decision: deciding.idle,
    decisionEpoch: NONE,
    left: lease,
    term: 1,
    claimTerm: 1,
    phaseTerm: 0,
    isBroken: 0,
    isLeaving: 0,
    revision: 1,
    asking: asking.idle,
    askedFor: 0,
    askedRevision: 0,
    sinceSlow: LEASE - 1,
  },
  challengers: Array.from({ length: challengers }, () => ({ ...node(), seen: 1, waited: 0 })),
})

const copy = (state: State): State => ({
  record: { ...state.record },
  placement: { ...state.placement },
  stream: state.stream,
  acked: state.acked,
  holder: { ...state.holder },
  challengers: state.challengers.map(challenger => ({ ...challenger })),
})

/** Spelled out: this is most of the work. Every number is small. */
function keyOf({ record, placement, stream, acked, holder: h, challengers }: State): string {
  let key = String.fromCharCode(
    record.revision * 2 + record.isEnded,
    placement.home * 8 + placement.epoch,
    stream * 2 + acked,
    h.version * 8 + h.claimEpoch,
    h.phase * 8 + h.phaseTerm,
    h.phaseHome * 8 + h.phaseEpoch,
    h.knownHome * 8 + h.knownEpoch,
    h.decision * 8 + h.decisionEpoch,
    h.term * 8 + h.claimTerm,
    h.left * 4 + h.isBroken * 2 + h.isLeaving,
    h.revision * 8 + h.askedRevision,
    h.asking * 8 + h.askedFor,
    h.sinceSlow,
  )
  for (const c of challengers)
    key += String.fromCharCode(
      c.version * 8 + c.claimEpoch,
      c.phase,
      c.phaseHome * 8 + c.phaseEpoch,
      c.seen * 8 + c.waited,
    )
  return key
}

/** Drops what no step will look at any more, so that states that differ only in it are one. */
function forget(state: State, wrong: WrongRule | undefined): void {
  const { holder, challengers, record } = state
  if (holder.asking === asking.idle) Object.assign(holder, { askedFor: 0, askedRevision: 0 })
  for (const it of [holder, ...challengers]) {
    if (it.phase === phases.idle) Object.assign(it, { phaseHome: NONE, phaseEpoch: NONE })
  }
  if (holder.decision === deciding.idle) holder.decisionEpoch = NONE
  if (holder.phase === phases.idle) holder.phaseTerm = 0
  // However long it was so: it is not any more.
  for (const challenger of challengers)
    if (challenger.seen !== record.revision && wrong === undefined) challenger.waited = 0
}

export interface Rules {
  readonly challengers: number
  /** Writes of H's record, by H and by those who end its lease. */
  readonly recordWrites: number
  /** The last epoch of the placement. */
  readonly epochMax: number
  readonly hasHandover: boolean
  /** Whether H's clock may be slow. */
  readonly hasDrift: boolean
  readonly wrong?: WrongRule
  readonly statesMax?: number
}

/** Every state that can be reached, in the order of the number of steps to it. */
export function explore(rules: Rules): Explored {
  const { challengers, wrong, statesMax = 1_000_000 } = rules
  const lease = wrong === 'no margin for drift' ? LEASE : LEASE - MARGIN
  const first = begin(challengers, lease)
  const from = new Map<string, readonly [string, string] | undefined>([[keyOf(first), undefined]])
  const steps = new Set<string>()
  let frontier: [string, State][] = [[keyOf(first), first]]
  while (frontier.length > 0) {
    const next: [string, State][] = []
    for (const [key, state] of frontier) {
      for (const [step, after, isViolated] of successors(state, lease, rules)) {
        steps.add(step)
        if (isViolated) return { states: from.size, violation: [...pathTo(from, key), step], steps }
        const itsKey = keyOf(after)
        if (from.has(itsKey) || !isOpen(after)) continue
        if (from.size >= statesMax) throw new Error(`more than ${statesMax} states`)
        from.set(itsKey, [key, step])
        next.push([itsKey, after])
      }
    }
    frontier = next
  }
  return { states: from.size, violation: undefined, steps }
}

/** Whether two acknowledgements can still come together: what leads nowhere is not followed. */
function isOpen({ acked, holder, challengers }: State): boolean {
  const mayYet = Number(holder.decision !== deciding.idle || holder.version === 0)
  return acked + mayYet + challengers.filter(({ version }) => version === 0).length >= 2
}

function pathTo(from: ReadonlyMap<string, readonly [string, string] | undefined>, last: string): string[] {
  const path: string[] = []
  for (let at = from.get(last); at; at = from.get(at[0])) path.push(at[1])
  return path.reverse()
}

type Successor = readonly [step: string, after: State, isViolated: boolean]

function* successors(state: State, lease: number, rules: Rules): Generator<Successor> {
  const { wrong } = rules
  const to = (step: string, change: (after: State) => void): Successor => {
    const after = copy(state)
    change(after)
    forget(after, wrong)
    return [step, after, false]
  }
  yield* timePasses(state, rules, to)
  yield* renewal(state, lease, rules, to)
  if (rules.hasHandover) yield* handover(state, rules, to)
  yield* deciders(state, rules, to)
  for (const [n] of state.challengers.entries()) yield* doubt(state, n, to)
}

type To = (step: string, change: (after: State) => void) => Successor

function* timePasses(state: State, { hasDrift }: Rules, to: To): Generator<Successor> {
  const pass = (after: State, isSlow: boolean) => {
    const { holder } = after
    if (!isSlow) {
      holder.left = Math.max(0, holder.left - 1)
      if (holder.asking !== asking.idle) holder.askedFor = Math.min(LEASE - MARGIN, holder.askedFor + 1)
    }
    holder.sinceSlow = isSlow ? 0 : Math.min(LEASE - 1, holder.sinceSlow + 1)
    for (const challenger of after.challengers) challenger.waited = Math.min(LEASE, challenger.waited + 1)
  }
  yield to('a tick', after => pass(after, false))
  // Of any LEASE ticks of a challenger, H's clock misses one at most.
  if (hasDrift && state.holder.sinceSlow >= LEASE - 1) yield to('a tick that H misses', after => pass(after, true))
}

/** H renews its lease by a compare-and-set on what it wrote last; the answer may be lost, and anything may be late. */
function* renewal(
  { record, holder }: State,
  lease: number,
  { wrong, recordWrites }: Rules,
  to: To,
): Generator<Successor> {
  if (holder.asking === asking.idle && record.revision < recordWrites)
    yield to('H asks to renew', ({ holder: h }) => {
      Object.assign(h, { asking: asking.sent, askedFor: 0, askedRevision: h.revision })
    })
  if (holder.asking === asking.sent) {
    if (record.revision === holder.askedRevision) {
      const renew = ({ record: r }: State) => Object.assign(r, { revision: r.revision + 1, isEnded: 0 })
      yield to('the record is renewed', after => {
        renew(after)
        after.holder.asking = asking.renewed
      })
      yield to('the record is renewed, and the answer is lost', after => {
        renew(after)
        after.holder.asking = asking.idle
      })
    } else
      yield to('the renewal is refused', ({ holder: h }) => {
        h.asking = asking.conflict
      })
  }
  if (holder.asking === asking.renewed)
    yield to('H hears that it renewed', ({ holder: h }) => {
      h.asking = asking.idle
      h.revision = h.askedRevision + 1
      if (h.left === 0 || h.isBroken) h.term++
      h.isBroken = 0
      h.left = wrong === 'lease counted from the answer' ? lease : Math.max(0, lease - h.askedFor)
    })
  if (holder.asking === asking.conflict)
    yield to('H looks at its record', ({ record: r, holder: h }) => {
      h.asking = asking.idle
      h.revision = r.revision
      // A later one of its own, whose answer was lost, breaks no term.
      if (r.isEnded) h.isBroken = 1
    })
}

function* handover(state: State, { wrong, epochMax }: Rules, to: To): Generator<Successor> {
  const { holder, placement } = state
  if (!holder.isLeaving && mayDecide(state, wrong))
    yield to('H begins to hand over', ({ holder: h }) => {
      h.isLeaving = 1
    })
  if (!holder.isLeaving) return
  const successor = HOLDER + 1
  const reach = (after: State) => {
    const heir = after.challengers[0]!
    heir.version = Math.max(heir.version, after.holder.version)
    if (wrong !== 'a handover keeps the claim until it is answered') after.holder.claimEpoch = NONE
    if (after.placement.home === HOLDER && after.placement.epoch === after.holder.knownEpoch)
      after.placement = { home: successor, epoch: after.placement.epoch + 1 }
    after.holder.isLeaving = 0
  }
  if (placement.epoch < epochMax) {
    yield to('H hands over', after => {
      reach(after)
      Object.assign(after.holder, { knownHome: after.placement.home, knownEpoch: after.placement.epoch })
    })
    yield to('H hands over, and the answer is lost', reach)
  }
  yield to('the successor is not ready', ({ holder: h }) => {
    h.isLeaving = 0
  })
}

/** Whether H, by what it knows, may decide now. */
function mayDecide({ holder }: State, wrong: WrongRule | undefined): boolean {
  const { claimEpoch, knownHome, knownEpoch, left, isLeaving, claimTerm, term } = holder
  if (claimEpoch === NONE || knownHome !== HOLDER || claimEpoch !== knownEpoch) return false
  return left > 0 && !isLeaving && (wrong === 'claims outlive their term' || claimTerm === term)
}

/** What every node does: it hears of the placement or not, takes or claims the home, decides. */
function* deciders(state: State, rules: Rules, to: To): Generator<Successor> {
  const { placement, holder, challengers } = state
  if (holder.knownEpoch !== placement.epoch)
    yield to('H hears of the placement', after => {
      Object.assign(after.holder, { knownHome: placement.home, knownEpoch: placement.epoch })
    })
  yield* claim(state, HOLDER, holder, rules, to)
  yield* decision(state, rules.wrong, to)
  for (const [n, challenger] of challengers.entries()) {
    const name = `C${n + 1}`
    if (challenger.claimEpoch === NONE) yield* claim(state, HOLDER + 1 + n, challenger, rules, to)
    else if (challenger.version === 0) {
      const [step, after] = to(`${name} decides`, ({ challengers: all }) => {
        all[n]!.version = 1
      })
      yield [step, { ...after, acked: 1, stream: 1 }, state.acked === 1]
    }
  }
}

/** Reads the placement, proves that the lease of its home is over, reads the stream to its end, writes the placement if it still stands. */
function* claim(state: State, id: number, it: Node, { wrong, epochMax }: Rules, to: To): Generator<Successor> {
  const { placement, stream, holder } = state
  const name = id === HOLDER ? 'H' : `C${id - HOLDER}`
  const change = (step: string, work: (it: Node, after: State) => void) =>
    to(`${name} ${step}`, after => work(id === HOLDER ? after.holder : after.challengers[id - HOLDER - 1]!, after))
  const isClaimed = id === HOLDER && holder.claimEpoch === holder.knownEpoch && holder.claimTerm === holder.term
  const mayClaim = id !== HOLDER || (holder.left > 0 && placement.home === HOLDER && !isClaimed)
  if (it.phase === phases.idle && mayClaim && placement.epoch < epochMax)
    yield change('reads the placement', (its, { holder: h }) => {
      // Its own home needs no proof.
      const phase = placement.home === id ? phases.proven : phases.read
      Object.assign(its, { phase, phaseHome: placement.home, phaseEpoch: placement.epoch })
      if (id === HOLDER) h.phaseTerm = h.term
      if (wrong === 'caught up before the proof') its.version = Math.max(its.version, stream)
    })
  if (it.phase === phases.read) {
    if (id !== HOLDER && it.phaseHome === HOLDER) yield* proof(state, id, it as Challenger, wrong, change)
    else
      yield change('gives up', its => {
        its.phase = phases.idle
      })
  }
  if (it.phase === phases.proven)
    yield change('has read the stream to its end', its => {
      its.phase = phases.caughtUp
      if (wrong !== 'caught up before the proof') its.version = Math.max(its.version, stream)
    })
  if (it.phase === phases.caughtUp)
    yield change('writes the placement', (its, after) => {
      its.phase = phases.idle
      const epoch = wrong === 'placement read after the proof' ? placement.epoch : its.phaseEpoch
      const stands = placement.epoch === epoch && epoch < epochMax
      if (stands) {
        after.placement = { home: id, epoch: epoch + 1 }
        its.claimEpoch = epoch + 1
        if (id === HOLDER) after.holder.claimTerm = after.holder.phaseTerm
      }
      if (id === HOLDER) Object.assign(its, { knownHome: after.placement.home, knownEpoch: after.placement.epoch })
    })
}

type Change = (step: string, work: (it: Node, after: State) => void) => Successor

function* proof(
  { record }: State,
  id: number,
  it: Challenger,
  wrong: WrongRule | undefined,
  change: Change,
): Generator<Successor> {
  if (wrong === 'gone by the silence of a watch') {
    if (it.waited >= LEASE)
      yield change('heard nothing for a lease', its => {
        its.phase = phases.proven
      })
    return
  }
  if (record.isEnded)
    yield change('finds the lease ended', its => {
      its.phase = phases.proven
    })
  if (it.waited < LEASE) return
  if (wrong === 'fence by a read') {
    // Answered by a server that is behind.
    yield change('reads that the record is as it was', its => {
      its.phase = phases.proven
    })
    return
  }
  yield change('ends the lease, if the record is as it was', (its, after) => {
    if (after.record.revision === it.seen) {
      after.record = { revision: it.seen + 1, isEnded: 1 }
      its.phase = phases.proven
    } else {
      its.phase = phases.idle
      // It looks again, and waits anew.
      Object.assign(after.challengers[id - HOLDER - 1]!, { seen: after.record.revision, waited: 0 })
    }
  })
}

/** The watch tells a challenger of H's record: at once, late, or not at all. */
function* doubt({ record, challengers }: State, n: number, to: To): Generator<Successor> {
  if (challengers[n]!.seen !== record.revision)
    yield to(`C${n + 1} sees the record`, after => {
      Object.assign(after.challengers[n]!, { seen: record.revision, waited: 0 })
    })
}

/** A conditional write of H: the right is looked at, the batch is committed, published, and the right looked at again before the answer. */
function* decision(state: State, wrong: WrongRule | undefined, to: To): Generator<Successor> {
  const { holder } = state
  if (holder.decision === deciding.idle && holder.version === 0 && mayDecide(state, wrong))
    yield to('H looks at the condition', ({ holder: h }) => {
      Object.assign(h, { decision: deciding.checked, decisionEpoch: h.claimEpoch })
    })
  if (holder.decision === deciding.checked)
    yield to('H commits and publishes', after => {
      // In the writer's turn the condition is true of what stands there.
      after.holder.decision = holder.version === 0 ? deciding.published : deciding.idle
      after.holder.version = 1
      after.stream = 1
    })
  if (holder.decision !== deciding.published) return
  const isSure =
    wrong === 'no look after the commit' || (mayDecide(state, wrong) && holder.claimEpoch === holder.decisionEpoch)
  const [step, after] = to(isSure ? 'H acknowledges' : 'H answers that it is not sure', next => {
    next.holder.decision = deciding.idle
    if (isSure) next.acked = 1
  })
  yield [step, after, isSure && state.acked === 1]
}
