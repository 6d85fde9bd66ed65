/** What a running job may use to tell how far it is; throws CANCELLED when the job was cancelled meanwhile. */
export interface JobProgress {
  report(stage: string, done: number, total: number): Promise<void>
  readonly signal: AbortSignal
}
