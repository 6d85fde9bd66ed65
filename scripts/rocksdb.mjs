// Makes rocksdb's native part loadable by the Node that runs this.
//
// The binary that rocksdb ships for Linux was compiled with the old C++ string ABI. Node 22 and later export C++ symbols of the same names (std::regex) with the
// new one, and the loader would bind the binary's calls to those: it crashes as it loads. So a copy is made that carries DF_SYMBOLIC, the ELF flag by which
// a library prefers its own definitions, and put where node-gyp-build looks first. Where no binary is shipped, it is compiled.
//
// The binding reads ranges without looking at the checksums of their blocks: a flipped bit on disk would come out as another value, or end the process by a
// failed assertion, for all tenants and again after every start. So the flag that its iterators set is turned to true (docs/decisions/0021): in the shipped
// binary, known by its digest, two bytes; in the source before it is compiled.
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const PT_DYNAMIC = 2
const DT_NULL = 0n
const DT_FLAGS = 30n
const DF_SYMBOLIC = 2n
/** Where binaries of rocksdb 5.2.1 store `options_->verify_checksums = false` (movb $0x0, 0x2c(register)): the immediate byte in `db_clear` and `iterator_init`. */
const UNCHECKED_RANGES = {
  '27888aa3d9c93eda11a0960141f34bc192d534120889aeda50b6daa84880b239': [0x15c501, 0x15dd64],
}
const UNCHECKED_SOURCE = 'options_->verify_checksums = false;'
/** Beside a binary that has been prepared: how. Another one is made when this is not what the file says. */
const PREPARED = 'own symbols, checked ranges'

export function prepareRocksdb(root, say) {
  const folder = join(root, 'node_modules', 'rocksdb')
  const target = join(folder, 'build', 'Release', 'leveldown.node')
  const stamp = join(folder, 'build', 'percolate.txt')
  if (existsSync(target) && existsSync(stamp) && readFileSync(stamp, 'utf8') === PREPARED) return
  const shipped = readdirSync(join(folder, 'prebuilds')).find(
    name => name.startsWith(`${process.platform}-`) && name.includes(process.arch),
  )
  if (!shipped) {
    say(
      `compiling rocksdb for ${process.platform} ${process.arch}: needs python3, make and g++, and takes ten minutes or more, once`,
    )
    checkRangesInSource(join(folder, 'binding.cc'))
    execFileSync('npm', ['rebuild', 'rocksdb', '--foreground-scripts', '--ignore-scripts=false'], {
      cwd: root,
      stdio: 'inherit',
    })
    writeFileSync(stamp, PREPARED)
    return
  }
  const glibc = join(folder, 'prebuilds', shipped, 'node.napi.glibc.node')
  if (process.platform !== 'linux' || !existsSync(glibc) || !process.report?.getReport().header.glibcVersionRuntime)
    return
  mkdirSync(join(folder, 'build', 'Release'), { recursive: true })
  writeFileSync(`${target}.new`, preferOwnSymbols(checkRanges(readFileSync(glibc), say)))
  renameSync(`${target}.new`, target)
  writeFileSync(stamp, PREPARED)
}

/** The shipped binary with iterators that check what they read. One that is not known is left as it is, and said so. */
function checkRanges(binary, say) {
  const places = UNCHECKED_RANGES[createHash('sha256').update(binary).digest('hex')]
  if (!places) {
    say('this binary of rocksdb is not known: ranges are read without checksums, and rot on disk may end the process')
    return binary
  }
  for (const at of places) binary[at] = 1
  return binary
}

function checkRangesInSource(path) {
  const source = readFileSync(path, 'utf8')
  const checked = source.replaceAll(UNCHECKED_SOURCE, UNCHECKED_SOURCE.replace('false', 'true'))
  if (!checked.includes(UNCHECKED_SOURCE.replace('false', 'true')))
    throw new Error(`rocksdb: ${path} does not have "${UNCHECKED_SOURCE}"`)
  writeFileSync(`${path}.new`, checked)
  renameSync(`${path}.new`, path)
}

/** A 64-bit little-endian ELF library with DF_SYMBOLIC set: in its DT_FLAGS, or in a spare entry at the end of its dynamic section. */
export function preferOwnSymbols(elf) {
  const headers = Number(elf.readBigUInt64LE(32))
  const size = elf.readUInt16LE(54)
  const dynamic = Array.from({ length: elf.readUInt16LE(56) }, (_, n) => headers + n * size).find(
    at => elf.readUInt32LE(at) === PT_DYNAMIC,
  )
  const start = Number(elf.readBigUInt64LE(dynamic + 8))
  const end = start + Number(elf.readBigUInt64LE(dynamic + 32))
  for (let at = start; at < end; at += 16) {
    const tag = elf.readBigInt64LE(at)
    if (tag === DT_FLAGS) {
      elf.writeBigUInt64LE(elf.readBigUInt64LE(at + 8) | DF_SYMBOLIC, at + 8)
      return elf
    }
    if (tag !== DT_NULL) continue
    // The section must still end with a null entry.
    if (at + 32 > end || elf.readBigInt64LE(at + 16) !== DT_NULL)
      throw new Error('rocksdb: the dynamic section has no spare entry')
    elf.writeBigInt64LE(DT_FLAGS, at)
    elf.writeBigUInt64LE(DF_SYMBOLIC, at + 8)
    return elf
  }
  throw new Error('rocksdb: the dynamic section does not end')
}

if (process.argv[1] === fileURLToPath(import.meta.url))
  prepareRocksdb(fileURLToPath(new URL('..', import.meta.url)), console.log)
