/** A document in a ranking, best first. */
export interface Ranked {
  readonly docNo: number
  readonly score: number
}

/** The constant of reciprocal rank fusion (Cormack, Clarke and Büttcher, 2009). */
const RRF_K = 60

/** The `count` best of many scored documents; ties go to the lower document number, so that paging is stable. */
export function best(scored: Iterable<readonly [docNo: number, score: number]>, count: number): Ranked[] {
  const all: Ranked[] = []
  for (const [docNo, score] of scored) all.push({ docNo, score })
  all.sort((a, b) => b.score - a.score || a.docNo - b.docNo)
  return all.slice(0, count)
}

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
  return best(scores, count)
}
