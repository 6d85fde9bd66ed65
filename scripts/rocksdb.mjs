// Makes rocksdb's native part loadable by the Node that runs this.
//
// The binary that rocksdb ships for Linux was compiled with the old C++ string ABI. Node 22 and later export C++ symbols of the same names (std::regex) with the
// new one, and the loader would bind the binary's calls to those: it crashes as it loads. So a copy is made that carries DF_SYMBOLIC, the ELF flag by which
// a library prefers its own definitions, and put where node-gyp-build looks first. Where no binary is shipped, it is compiled.
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const PT_DYNAMIC = 2
const DT_NULL = 0n
const DT_FLAGS = 30n
const DF_SYMBOLIC = 2n

export function prepareRocksdb(root, say) {
  const folder = join(root, 'node_modules', 'rocksdb')
  const target = join(folder, 'build', 'Release', 'leveldown.node')
  if (existsSync(target)) return
  const shipped = readdirSync(join(folder, 'prebuilds')).find(
    name => name.startsWith(`${process.platform}-`) && name.includes(process.arch),
  )
  if (!shipped) {
    say(
      `compiling rocksdb for ${process.platform} ${process.arch}: needs python3, make and g++, and takes ten minutes or more, once`,
    )
    execFileSync('npm', ['rebuild', 'rocksdb', '--foreground-scripts', '--ignore-scripts=false'], {
      cwd: root,
      stdio: 'inherit',
    })
    return
  }
  const glibc = join(folder, 'prebuilds', shipped, 'node.napi.glibc.node')
  if (process.platform !== 'linux' || !existsSync(glibc) || !process.report?.getReport().header.glibcVersionRuntime)
    return
  mkdirSync(join(folder, 'build', 'Release'), { recursive: true })
  writeFileSync(`${target}.new`, preferOwnSymbols(readFileSync(glibc)))
  renameSync(`${target}.new`, target)
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
