import type { Counter } from 'prom-client'
import type { FairSemaphore } from '../src/base/fair-semaphore.ts'
import type { Metrics } from '../src/base/metrics.ts'

export interface UploadCounters {
  readonly uploads: Counter<'outcome'>
  readonly bytes: Counter
}

/** The gateway's own metrics; `docs/metrics.md` lists them. */
export function addGatewayMetrics(
  metrics: Metrics,
  doors: FairSemaphore,
  places: FairSemaphore,
  waits: { readonly count: number },
): UploadCounters {
  metrics.gauge('percolate_uploads_streaming', 'Uploads that stream to S3 now', () => places.held)
  metrics.gauge('percolate_uploads_waiting', 'Uploads that wait for their turn', () => places.waiting)
  metrics.gauge('percolate_uploads_open', 'Uploads that have begun, silent and waiting ones included', () => doors.held)
  metrics.gauge('percolate_job_waits', 'Requests that wait for a job to end', () => waits.count)
  return {
    uploads: metrics.counter('percolate_uploads_total', 'Uploads by outcome', ['outcome']),
    bytes: metrics.counter('percolate_upload_bytes_total', 'Bytes of acknowledged uploads'),
  }
}
