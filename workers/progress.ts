/** What a running job may use to tell how far it is; throws CANCELLED when the job was cancelled meanwhile. */
export interface JobProgress {
  report(stage: string, done: number, total: number): Promise<void>
  /** Says that what the job wrote stands, whatever becomes of the rest of its work: it cannot be cancelled from then on. Throws CANCELLED when it was before. */
  settle(): Promise<void>
  readonly signal: AbortSignal
}
