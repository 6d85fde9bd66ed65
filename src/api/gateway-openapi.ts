import { CURSOR_CHARS_MAX, LIST_LIMIT_MAX } from '../base/limits.ts'
import { ProblemOutput } from './schemas.ts'

/** What the gateway offers, as OpenAPI: served by itself, and shown in the database node's document too, so that one page has everything. */

const tenant = {
  name: 'X-Tenant-ID',
  in: 'header',
  required: true,
  description: 'The tenant.',
  schema: { type: 'string', pattern: '^[a-z0-9][a-z0-9_-]{0,62}$' },
  example: 'acme',
}
const id = { name: 'id', in: 'path', required: true, schema: { type: 'string', format: 'uuid' } }
const limit = {
  name: 'limit',
  in: 'query',
  schema: { type: 'integer', minimum: 1, maximum: LIST_LIMIT_MAX, default: 100 },
}
const cursor = {
  name: 'cursor',
  in: 'query',
  description: 'From the last answer; opaque.',
  schema: { type: 'string', maxLength: CURSOR_CHARS_MAX },
}
const wait = {
  name: 'wait',
  in: 'query',
  description:
    'Answer only when the job has ended, or this time is over: `30s`, `500ms`, or seconds; at most 60 s. Default: at once.',
  schema: { type: 'string', default: '0' },
  example: '30s',
}

const job = {
  type: 'object',
  properties: {
    job_id: { type: 'string', format: 'uuid' },
    kind: { type: 'string', enum: ['ingest', 'embed'] },
    status: { type: 'string', enum: ['queued', 'running', 'completed', 'failed', 'dead', 'cancelled'] },
    stage: {
      type: 'string',
      enum: ['waiting', 'download', 'parse', 'embed', 'write', 'replace', 'done', 'retract', 'retracted', 'retained'],
      description:
        'Of a job that failed: where. Of one that was cancelled: `retract` while what it wrote is being taken back, `retracted` when that is done, `retained` when it was too old for that: `error` says what is left.',
    },
    done: { type: 'integer' },
    total: { type: 'integer' },
    error: { type: 'object', properties: { code: { type: 'string' }, detail: { type: 'string' } } },
    attempts: { type: 'integer' },
    created_at: { type: 'string', format: 'date-time' },
    updated_at: { type: 'string', format: 'date-time' },
    file: {
      type: 'object',
      properties: {
        name: { type: 'string' },
        bytes: { type: 'integer' },
        content_type: { type: 'string', nullable: true },
      },
    },
    uri: { type: 'string' },
  },
  example: {
    job_id: '0b8e6c1e-5f0c-4b43-9f0e-3c1d5a2b7e90',
    kind: 'ingest',
    status: 'completed',
    stage: 'done',
    done: 3,
    total: 3,
    attempts: 1,
    created_at: '2026-11-24T12:00:00.000Z',
    updated_at: '2026-11-24T12:00:01.000Z',
    file: { name: 'handbook.pdf', bytes: 48213, content_type: 'application/pdf' },
    uri: 'file:///handbook.pdf',
  },
}

const { $id: _id, ...problem } = ProblemOutput
const json = (description: string, schema: object) => ({ description, content: { 'application/json': { schema } } })
const problems = {
  '4XX': { description: 'Refused', content: { 'application/problem+json': { schema: problem } } },
  '5XX': { description: 'Try again later', content: { 'application/problem+json': { schema: problem } } },
}

const paths = {
  '/upload': {
    post: {
      operationId: 'postUpload',
      tags: ['uploads'],
      summary: 'Upload a document: stored, then parsed, embedded and made searchable by a job',
      parameters: [tenant, wait],
      requestBody: {
        required: true,
        content: {
          'multipart/form-data': {
            schema: {
              type: 'object',
              required: ['file'],
              properties: {
                file: {
                  type: 'string',
                  format: 'binary',
                  description: 'PDF, DOCX, XLSX, CSV, HTML, Markdown, text or JSON.',
                },
                uri: { type: 'string', description: 'Its identity: a later upload with the same takes its place.' },
                category: { type: 'string' },
                metadata: {
                  type: 'string',
                  description: 'A JSON object, kept with every chunk.',
                  example: '{"box":7}',
                },
              },
            },
          },
        },
      },
      responses: {
        200: json('With `wait`: the job has ended, however it did; look at `status`', job),
        202: json('The document is stored and its job queued', {
          type: 'object',
          properties: { job_id: job.properties.job_id, status: job.properties.status },
        }),
        ...problems,
      },
    },
  },
  '/jobs': {
    get: {
      operationId: 'getJobs',
      tags: ['jobs'],
      summary: "The tenant's jobs, newest first",
      parameters: [tenant, limit, cursor],
      responses: {
        200: json('A page of them; `cursor` when there are more', {
          type: 'object',
          properties: { results: { type: 'array', items: job }, cursor: { type: 'string' } },
        }),
        ...problems,
      },
    },
  },
  '/jobs/{id}': {
    get: {
      operationId: 'getJobsById',
      tags: ['jobs'],
      summary: 'How far a job is',
      parameters: [tenant, id, wait],
      responses: { 200: json('The job', job), ...problems },
    },
    delete: {
      operationId: 'deleteJobsById',
      tags: ['jobs'],
      summary: 'Cancel a job; a running one stops at once, and what it wrote is taken back while `stage` is `retract`',
      parameters: [tenant, id],
      responses: { 200: json('The job', job), ...problems },
    },
  },
  '/jobs/{id}/retry': {
    post: {
      operationId: 'postJobsByIdRetry',
      tags: ['jobs'],
      summary: 'Start a failed, dead or cancelled job over',
      parameters: [tenant, id],
      responses: { 202: json('The job', job), ...problems },
    },
  },
}

/** The gateway's paths for a document of another server. */
export const gatewayPaths = () =>
  Object.fromEntries(
    Object.entries(paths).map(([path, operations]) => [
      path,
      { servers: [{ url: 'http://127.0.0.1:8081', description: 'The upload gateway' }], ...operations },
    ]),
  )

export const gatewayDocument = (version: string) => ({
  openapi: '3.0.3',
  info: {
    title: 'Percolate: uploads and jobs',
    version,
    description: 'The upload gateway. Everything else is at the database node, another port.',
  },
  paths,
})
