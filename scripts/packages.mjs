// Fetches programs from Debian's or Ubuntu's packages into a folder of ours: no root needed, nothing is installed or started.
import { execFileSync } from 'node:child_process'
import { mkdirSync, readdirSync } from 'node:fs'
import { join } from 'node:path'

export function has(program) {
  try {
    execFileSync('which', [program], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

/** Downloads packages and unpacks them into `work`/unpacked, whose path it returns; `namesOf` may ask apt for more of them. Throws when they can't be had. */
export function unpackPackages(work, names, namesOf = () => []) {
  if (!has('apt-get') || !has('dpkg')) throw new Error('no apt-get here')
  // Lists of our own when there are none, so that a fresh machine, and a user without rights, can fetch too.
  const own = [
    '-o',
    `Dir::State=${join(work, 'state')}`,
    '-o',
    `Dir::Cache=${join(work, 'cache')}`,
    '-o',
    'Dir::State::status=/var/lib/dpkg/status',
    '-o',
    'Debug::NoLocking=1',
    '-o',
    'APT::Sandbox::User=',
  ]
  const fetch = options => {
    const all = [...names, ...namesOf(name => dependencies(name, options))]
    execFileSync('apt-get', [...options, 'download', ...all], { cwd: work, stdio: 'pipe' })
  }
  try {
    fetch(['-o', 'APT::Sandbox::User='])
  } catch {
    for (const folder of ['state/lists/partial', 'cache/archives/partial'])
      mkdirSync(join(work, folder), { recursive: true })
    execFileSync('apt-get', [...own, 'update'], { stdio: 'pipe' })
    fetch(own)
  }
  for (const deb of readdirSync(work).filter(name => name.endsWith('.deb')))
    execFileSync('dpkg', ['-x', deb, 'unpacked'], { cwd: work, stdio: 'pipe' })
  return join(work, 'unpacked')
}

/** Libraries that a package depends on, beside the C library, which must be the machine's own. */
function dependencies(name, options) {
  const text = execFileSync('apt-cache', [...options, 'depends', name], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  return [...text.matchAll(/^ {1,2}\|?Depends: (lib[\w.+-]+)$/gm)]
    .map(match => match[1])
    .filter(lib => !/^libc6|^libgcc/.test(lib))
}
