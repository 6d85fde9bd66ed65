import { it } from 'vitest'
import { expectFuzzed } from '../support/fuzzing.ts'

/** Of each seed, so many clients; FUZZ_SEED names another first seed. */
const CONNECTIONS = 10_000
const SEEDS = 2
const FIRST_SEED = Number(process.env.FUZZ_SEED ?? 1)

it.each(Array.from({ length: SEEDS }, (_, n) => FIRST_SEED + n))(
  'a node lives through what no client should send, tells others the truth beside it, and lets go of everything (seed %i)',
  async seed => {
    await expectFuzzed(seed, CONNECTIONS)
  },
)
