import { beforeAll, describe, expect, it } from 'vitest'
import { kindsWithRules, ruleProblems } from '../../support/cel.ts'
import { hasKubectl, type Manifest, overlays, render, sayIfSkipped } from '../../support/manifests.ts'

sayIfSkipped()

describe.runIf(hasKubectl)("the rules of the kinds' own definitions", () => {
  const rendered = new Map<string, Manifest[]>()
  beforeAll(() => {
    for (const overlay of overlays) rendered.set(overlay, render(`overlays/${overlay}`))
  })

  it.each(overlays)('admit the overlay %s', overlay => {
    const all = rendered.get(overlay)!
    expect(ruleProblems(all)).toEqual([])
    // A kind of somebody else's that has none here would pass unseen.
    const foreign = all
      .filter(({ apiVersion }) => /istio\.io|keda\.sh/.test(apiVersion))
      .map(({ kind }) => kind as string)
    expect([...new Set(foreign)].filter(kind => !kindsWithRules.includes(kind))).toEqual([])
  })

  it('refuse what an API server would', () => {
    const find = (kind: string) => rendered.get('production')!.find(manifest => manifest.kind === kind)
    const changed = (kind: string, change: (copy: Manifest) => void) => {
      const copy = structuredClone(find(kind))
      change(copy)
      return ruleProblems([copy]).join('\n')
    }
    const route = (copy: Manifest) => copy.spec.http.find((each: Manifest) => each.route)
    expect(changed('VirtualService', () => {})).toBe('')
    expect(changed('VirtualService', copy => Object.assign(route(copy), { timeout: '0s' }))).toMatch(/timeout is "0s"/)
    expect(changed('VirtualService', copy => Object.assign(route(copy).retries, { perTryTimeout: '0s' }))).toMatch(
      /perTryTimeout/,
    )
    expect(
      changed('DestinationRule', ({ spec }) =>
        Object.assign(spec.trafficPolicy.outlierDetection, { baseEjectionTime: '0s' }),
      ),
    ).toMatch(/baseEjectionTime/)
    expect(
      changed('PeerAuthentication', ({ spec }) => {
        delete spec.selector
        spec.portLevelMtls = { 8222: { mode: 'PERMISSIVE' } }
      }),
    ).toMatch(/portLevelMtls/)
    expect(
      changed('PeerAuthentication', ({ spec }) => {
        spec.selector = { matchLabels: { a: 'b' } }
        spec.portLevelMtls = { 70000: { mode: 'PERMISSIVE' } }
      }),
    ).toMatch(/65535/)
    expect(changed('ScaledObject', ({ spec }) => Object.assign(spec, { minReplicaCount: 99 }))).toMatch(/minReplica/)
  })
})
