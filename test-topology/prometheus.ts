import { rename, writeFile } from 'node:fs/promises'

/** Prometheus as the PodMonitors of `k8s/components/monitoring` have it configured, with a file in place of the API server. JSON is YAML too. */
export function prometheusConfig(scrapeMs: number, targetsPath: string): string {
  const interval = `${Math.round(scrapeMs)}ms`
  return JSON.stringify({
    global: { scrape_interval: interval, scrape_timeout: interval, evaluation_interval: interval },
    scrape_configs: [{ job_name: 'percolate', file_sd_configs: [{ files: [targetsPath], refresh_interval: '1s' }] }],
  })
}

export interface ScrapeTarget {
  readonly component: string
  readonly name: string
  readonly url: string
}

/** Whom Prometheus asks from now on. Series of those that are no longer among them end at once. */
export async function writeTargets(path: string, targets: readonly ScrapeTarget[]): Promise<void> {
  const groups = targets.map(({ component, name, url }) => ({
    targets: [new URL(url).host],
    labels: { app_kubernetes_io_component: component, pod: name },
  }))
  const fresh = `${path}.${process.hrtime.bigint()}`
  await writeFile(fresh, JSON.stringify(groups))
  await rename(fresh, path)
}
