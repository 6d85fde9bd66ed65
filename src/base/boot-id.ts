import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { promisify } from 'node:util'

const SYSCTL_MS_MAX = 2000

/**
 * Which start of the machine this is: what a process wrote outlives the process, by the operating system's cache, and not always the machine. Another one after each start of the machine, and on another machine; undefined where it cannot be found out (neither Linux nor macOS).
 */
export async function bootId(): Promise<string | undefined> {
  try {
    if (process.platform === 'linux') return (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim()
    if (process.platform !== 'darwin') return undefined
    const { stdout } = await promisify(execFile)('/usr/sbin/sysctl', ['-n', 'kern.bootsessionuuid'], {
      timeout: SYSCTL_MS_MAX,
    })
    return stdout.trim() || undefined
  } catch {
    return undefined
  }
}
