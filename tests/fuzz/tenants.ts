/** Tenants that fuzzing clients write to; few, so that the databases of a node do. */
export const FUZZED_TENANTS = ['fuzz-0', 'fuzz-1', 'fuzz-2', 'fuzz-3'] as const
/** The tenant of the honest clients, which nobody else writes to. */
export const HONEST_TENANT = 'honest'
