import { timeoutSignal } from '../base/timeout.ts'

export interface Readiness {
  readonly part: string
  readonly url: string
  /** `ready`, `not ready`, or `away` when nothing answers there. */
  readonly state: string
  readonly probes: readonly { readonly name: string; readonly ok: boolean; readonly detail?: string }[]
}

/** What the `/ready` of a part says; within five seconds. */
export async function readiness(part: string, url: string): Promise<Readiness> {
  try {
    const response = await fetch(new URL('/ready', url), { signal: timeoutSignal(5000) })
    const { status, probes } = (await response.json()) as { status: string } & Pick<Readiness, 'probes'>
    return { part, url, state: typeof status === 'string' ? status : 'not ready', probes: probes ?? [] }
  } catch {
    return { part, url, state: 'away', probes: [] }
  }
}

/** Why parts are not ready, in one line; empty: all are. */
export const whatIsAwaited = (parts: readonly Readiness[]): string =>
  parts
    .filter(({ state }) => state !== 'ready')
    .map(({ part, state, probes }) => {
      const failed = probes.filter(({ ok }) => !ok).map(({ name, detail }) => `${name}: ${detail ?? 'failed'}`)
      return `${part} ${failed.length > 0 ? failed.join(', ') : state}`
    })
    .join('; ')
