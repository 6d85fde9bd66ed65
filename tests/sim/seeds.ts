/** Seeds of runs that failed once, each kept with what was wrong; the simulator's schedule may have changed since, so that they fail in other ways or not at all. */
export const FAILED_ONCE: readonly number[] = [
  // An outbox key was reused after a copy changed its origin.
  18, 98,
  // A hole was given up, and the lost entry turned up after all.
  28, 419, 584,
  // A delete clock collected on one copy and kept on another.
  56, 180, 262,
  // A copy that restarted alone answered without what had been in reaped streams.
  184,
  // A node was fenced by its own record from a restored directory.
  194,
  // The directory took a complete copy for a new one.
  289, 655,
  // A holder that missed the last entry was never told of it.
  343, 347, 402,
  // The publisher lost a notice that came while it was ending.
  125, 151,
  // The maker of a tenant never heard that it was made; entries of a lost disk were waited for without end.
  1_000_141, 1_000_107,
  // Anti-entropy and garbage collection were armed once, and not again while a snapshot was pending.
  1229, 2647, 3823, 1461, 1528,
  // A home decided on, after its lease had lapsed, by an old view of the directory.
  1_003_507, 1_003_852,
  // Entries from the stream went into a copy beside the transfer that made it, and deletes were lost between the two.
  45, 443, 684, 1_000_648, 1_000_743,
  // A copy that never got complete was removed with the writes that were set aside in it.
  462, 1_000_969, 1_001_327,
  // A sealed stream waited for a copy that was going, and that one for a stream to publish to.
  807, 1_000_677, 1_001_417,
  // A copy that had given entries up passed for one that has them.
  1_000_966,
  // A new stream began with the floor, and a copy without what is below it passed for settled.
  1_001_342, 3568, 1304,
  // A write was acknowledged at level stream after the copy that made it had been made anew, with the write set aside.
  1678, 1861, 1_002_441,
  // The simulator never ended a transfer whose reader had crashed.
  450, 3159,
  // Parts of a transfer that was cut short made a copy differ from another one with the same vector.
  1_002_509,
  // The only copy with what had been in a deleted stream was away for too long, and was made anew.
  1_001_571,
  // A transfer cut short kept its copy from being compared, and what it had merged from a disk that then went back in time stayed there alone.
  1_002_199,
  // A read under the bookmark of a write that had been set aside.
  1973, 2612,
]

/** Wide lives that failed once; schedule 0 is the seed's own. */
export const FAILED_SHAKEN: readonly (readonly [seed: number, shake: number])[] = [
  // A write that was on disk, and in no vector yet, made copies with the same history look different.
  [3_101_254, 1],
  // The simulator looked at copies of which one had collected its garbage for the latest floor, and the other had not.
  [3_101_151, 1],
  // The checker of feeds wanted to hear of a write that was superseded before the feed began.
  [3_103_091, 1],
  // A home that had been cut off came back to a directory of before it lost the home, and went on as if nobody had followed it.
  [54, 0],
  // A delete that a copy learned of when its clock had been forgotten everywhere else was told with the clock of the floor.
  [44, 0],
  // A disk went back in time, and only records that had come ahead of their entries knew of what it had written since: it gave out the numbers of those entries again.
  [1_001_482, 0],
  // A disk that had lied forgot, with its machine, an entry that was still on its way to the stream: another one got its number, and was taken for a repetition.
  [287, 0],
  // Another one forgot entries of which only the client of a feed had heard, and gave their numbers out again: the feed passed over what came under them.
  [1_000_577, 0],
  // A disk was put back while the directory could not be read, and its node asked the holders of before: it wrote on under the same origin.
  [289, 0],
  // A transfer that was cut short had brought what was written since it began, and the copy did not know that it was ahead.
  [21, 0],
]
