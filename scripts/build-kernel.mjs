// Assembles src/search/kernel.wat into src/search/kernel.gen.ts, so that the kernel ships inside the compiled code.
import { readFileSync, writeFileSync } from 'node:fs'
import wabtFactory from 'wabt'

const root = new URL('../', import.meta.url)
const source = readFileSync(new URL('src/search/kernel.wat', root), 'utf8')
const wabt = await wabtFactory()
const module = wabt.parseWat('kernel.wat', source, { simd: true })
const { buffer } = module.toBinary({})
module.destroy()
const text = `// Made from kernel.wat by scripts/build-kernel.mjs.\nexport const kernelBase64 =\n  '${Buffer.from(buffer).toString('base64')}'\n`
writeFileSync(new URL('src/search/kernel.gen.ts', root), text)
