import { Best, type Ranked } from './best.ts'

/** The constant of reciprocal rank fusion (Cormack, Clarke and Büttcher, 2009). */
const RRF_K = 60

/** Fuses rankings by reciprocal rank: scores of different scales need no calibration. */
export function fuse(
  rankings: readonly { readonly ranking: readonly Ranked[]; readonly weight: number }[],
  count: number,
): Ranked[] {
  const scores = new Map<number, number>()
  for (const { ranking, weight } of rankings) {
    for (const [rank, { docNo }] of ranking.entries()) {
      scores.set(docNo, (scores.get(docNo) ?? 0) + weight / (RRF_K + rank + 1))
    }
  }
  const best = new Best(count)
  for (const [docNo, score] of scores) best.offer(docNo, score)
  return best.ranked()
}
