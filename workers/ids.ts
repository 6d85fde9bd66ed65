import { derivedId } from '../src/base/ids.ts'
import type { JobRecord } from '../src/jobs/model.ts'

/** The document as an entity: one for each uri. */
export const documentEntityId = (uri: string): string => `document:${derivedId(uri)}`

/** What tells of a job in the feed of moments. */
export const momentId = (job: JobRecord): string => `ingest:${job.job_id}`
