import type { Counter } from 'prom-client'
import type { Metrics } from '../src/base/metrics.ts'
import type { Semaphore } from '../src/base/semaphore.ts'

export interface UploadCounters {
  readonly uploads: Counter<'outcome'>
  readonly bytes: Counter
}

/** The gateway's own metrics; `docs/metrics.md` lists them. */
export function addGatewayMetrics(metrics: Metrics, places: Semaphore): UploadCounters {
  metrics.gauge('percolate_uploads_streaming', 'Uploads that stream to S3 now', () => places.held)
  metrics.gauge('percolate_uploads_waiting', 'Uploads that wait for their turn', () => places.waiting)
  return {
    uploads: metrics.counter('percolate_uploads_total', 'Uploads by outcome', ['outcome']),
    bytes: metrics.counter('percolate_upload_bytes_total', 'Bytes of acknowledged uploads'),
  }
}
