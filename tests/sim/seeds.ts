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
]
