import { PercolateError } from './errors.ts'

/** For what can be false only through a defect of ours. Bad input gets a {@link PercolateError} instead. */
export function assert(condition: unknown, message: string): asserts condition {
  if (!condition) throw new PercolateError('INTERNAL', `assertion failed: ${message}`)
}
