/** The simulator's checkers, each with what begins to tell that a violation is one of its own. */
const checkers = {
  'acknowledged writes':
    /is lost: |is back from before its acknowledged delete|has no copy left, and|acknowledged at level stream, and no stream/,
  'equal copies':
    / differs between | the vectors of .* differ|entries of .* to publish$|another tenant's|two copies with the same history differed|^the copy of .* cannot be read|^n\d+, \S+: /,
  linearizability: /^conditional writes of /,
  'one home': /are the home of .* at once/,
  'honest copies': /and lacks a write that it acknowledged|says that it has read the stream of .*, and lacks/,
  feeds: /^a feed /,
  bookmarks: /with a bookmark does not see/,
  'refused requests': /of which every request was refused/,
  recovery: /after the last fault (not every copy is current|the home of )|^after waking, /,
  rest: /did not come to rest|are in use all the time|times a second while nothing happens/,
  answers: /^an operation failed with/,
} as const

export type Checker = keyof typeof checkers

/** Which checker says this. Throws when none does: every sentence has to be somebody's. */
export function checkerOf(violation: string): Checker {
  for (const [name, says] of Object.entries(checkers)) if (says.test(violation)) return name as Checker
  throw new Error(`No checker is known to say: ${violation}`)
}
