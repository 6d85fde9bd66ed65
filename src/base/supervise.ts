import { type ChildProcess, spawn } from 'node:child_process'

/**
 * `$@` is the program. Beside it a watcher reads our end of a pipe, and stops the program when that closes; the shell waits for the
 * program and ends with it.
 */
const SUPERVISOR =
  'trap "" INT HUP; exec 3<&0; "$@" </dev/null 3<&- & pid=$!; echo "supervised $pid" >&2; (read -r _ <&3; kill -TERM $pid 2>/dev/null) & watch=$!; exec 3<&-; wait $pid; code=$?; kill $watch 2>/dev/null; exit $code'

/** Starts a program that does not outlive us, however we die: in a process group of its own, so that Ctrl-C reaches us first and it last. */
export function superviseChild(
  command: readonly string[],
  options: { readonly name: string; readonly env?: NodeJS.ProcessEnv; readonly stdout?: 'ignore' | 'pipe' },
): ChildProcess {
  return spawn('/bin/sh', ['-c', SUPERVISOR, options.name, ...command], {
    detached: true,
    stdio: ['pipe', options.stdout ?? 'ignore', 'pipe'],
    ...(options.env ? { env: options.env } : {}),
  })
}
