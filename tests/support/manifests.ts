import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import ts from 'typescript'
import { parseAllDocuments } from 'yaml'
import { PACKAGE_FOLDER } from '../../src/base/version.ts'
import { findProgram } from '../../src/cluster/cluster.ts'

// biome-ignore lint/suspicious/noExplicitAny: objects of every kind.
export type Manifest = any

export const overlays = ['production', 'air-gapped', 'kind'] as const

/** Rendering takes a kubectl whose kustomize knows components and typed labels. */
export const hasKubectl = (() => {
  const { status, stdout } = spawnSync('kubectl', ['version', '--client', '-o', 'json'], { encoding: 'utf8' })
  if (status !== 0) return false
  const [, major = '0'] = /"kustomizeVersion":\s*"v(\d+)\./.exec(stdout) ?? []
  return Number(major) >= 5
})()

/** A check that does not run says so where nobody overlooks it. */
export function sayNotChecked(what: string): void {
  console.warn(`\n!!! NOT CHECKED: ${what}.\n`)
}

export function sayIfSkipped(): void {
  if (!hasKubectl) sayNotChecked('the manifests. There is no kubectl with kustomize 5 on this machine')
}

/** The path of a program that a check may do without. */
export function programOrNone(name: string): string | undefined {
  try {
    return findProgram(name, process.env.PATH ?? '', '')
  } catch {
    return undefined
  }
}

export function render(folder: string): Manifest[] {
  const text = execFileSync('kubectl', ['kustomize', join(PACKAGE_FOLDER, 'k8s', folder)], {
    encoding: 'utf8',
    maxBuffer: 64 * 1024 * 1024,
  })
  return parseAllDocuments(text).map(document => document.toJS() as Manifest)
}

export const nameOf = ({ kind, metadata }: Manifest): string => `${kind}/${metadata.name}`

/** Where the packages keep the types of an API group; Istio's v1 has the fields of v1beta1. */
function moduleOf(apiVersion: string, kind: string): string {
  const [group = '', version = ''] = apiVersion.includes('/') ? apiVersion.split('/') : ['', apiVersion]
  if (group === 'keda.sh') return `@kubernetes-models/keda/${apiVersion}/${kind}`
  if (group === 'networking.istio.io')
    return `@kubernetes-models/istio/${group}/${version === 'v1' ? 'v1beta1' : version}/${kind}`
  if (group === 'security.istio.io') return `@kubernetes-models/istio/${group}/v1beta1/${kind}`
  if (group === 'monitoring.coreos.com') return `@kubernetes-models/prometheus-operator/${apiVersion}/${kind}`
  return `kubernetes-models/${group === '' ? version : apiVersion}/${kind}`
}

/**
 * What is wrong with objects by the schemas of their kinds: fields that are not known, are missing or have another type (the packages' types, by the compiler, which refuses unknown
 * fields as the API server's strict validation does), and values that the schemas forbid (the packages' validators).
 */
export function schemaProblems(manifests: readonly Manifest[]): string[] {
  const problems: string[] = []
  const require = createRequire(import.meta.url)
  const lines: { text: string; name: string }[] = []
  for (const manifest of manifests) {
    const name = nameOf(manifest)
    const module = moduleOf(manifest.apiVersion, manifest.kind)
    const path = join(PACKAGE_FOLDER, 'node_modules', `${module}.d.ts`)
    if (!existsSync(path)) {
      problems.push(`${name}: no schema for ${manifest.apiVersion} ${manifest.kind}`)
      continue
    }
    for (const key of Object.keys(manifest).filter(key => !['apiVersion', 'kind'].includes(key)))
      lines.push({
        name,
        text: `export const o${lines.length}: NonNullable<import('${path.replace(/\.d\.ts$/, '')}').I${manifest.kind}['${key}']> = ${JSON.stringify(manifest[key])}`,
      })
    try {
      const Model = require(path.replace(/\.d\.ts$/, '.js'))[manifest.kind]
      // The package's own API version stands in where the newer one is the same.
      new Model({ ...manifest, apiVersion: Model.apiVersion }).validate()
    } catch (error) {
      problems.push(`${name}: ${(error as Error).message}`)
    }
  }
  problems.push(...typeProblems(lines))
  return problems
}

function typeProblems(lines: readonly { readonly text: string; readonly name: string }[]): string[] {
  const file = join(PACKAGE_FOLDER, 'tests', 'manifests.generated.ts')
  const text = lines.map(line => line.text).join('\n')
  const options: ts.CompilerOptions = {
    strict: true,
    noEmit: true,
    skipLibCheck: true,
    types: [],
    target: ts.ScriptTarget.ES2022,
    module: ts.ModuleKind.ESNext,
    moduleResolution: ts.ModuleResolutionKind.Bundler,
  }
  const host = ts.createCompilerHost(options)
  const { getSourceFile, fileExists } = host
  host.getSourceFile = (name, ...rest) =>
    name === file ? ts.createSourceFile(name, text, ts.ScriptTarget.ES2022) : getSourceFile(name, ...rest)
  host.fileExists = name => name === file || fileExists(name)
  const program = ts.createProgram([file], options, host)
  return ts.getPreEmitDiagnostics(program).map(diagnostic => {
    const at = diagnostic.file?.getLineAndCharacterOfPosition(diagnostic.start ?? 0)
    return `${lines[at?.line ?? 0]?.name}: ${ts.flattenDiagnosticMessageText(diagnostic.messageText, ' ')}`
  })
}
