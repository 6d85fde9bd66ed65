/**
 * Fires after `ms`, as `AbortSignal.timeout`, also when nothing but a signal made of it with `AbortSignal.any` is kept: Node 20 holds what such a signal is made of weakly, and the timer its signal, so that a time-out without a listener of its own is
 * collected as garbage and never fires (https://github.com/nodejs/node/issues/57736).
 */
export function timeoutSignal(ms: number): AbortSignal {
  // biome-ignore lint/plugin: the place that the rule asks for
  const signal = AbortSignal.timeout(ms)
  // One that has a listener is kept until it fires.
  signal.addEventListener('abort', () => {}, { once: true })
  return signal
}
