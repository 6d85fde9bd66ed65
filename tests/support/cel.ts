import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { evaluate } from '@marcbachmann/cel-js'
import { PACKAGE_FOLDER } from '../../src/base/version.ts'
import { type Manifest, nameOf } from './manifests.ts'

/** By kind: rule → the paths at which it stands in the schema. */
const { kinds: rulesOf } = JSON.parse(
  readFileSync(join(PACKAGE_FOLDER, 'tests', 'support', 'crd-rules.json'), 'utf8'),
) as {
  readonly kinds: Readonly<Record<string, Readonly<Record<string, readonly string[]>>>>
}

/** Kinds whose rules are known here. */
export const kindsWithRules: readonly string[] = Object.keys(rulesOf)

/**
 * What the API server would refuse of objects by the rules (CEL) of their CustomResourceDefinitions, which are more than types: durations of at least a millisecond, fields that exclude one
 * another. The rules are copied into crd-rules.json, with their source.
 */
export function ruleProblems(manifests: readonly Manifest[]): string[] {
  return manifests.flatMap(manifest =>
    Object.entries(rulesOf[manifest.kind] ?? {}).flatMap(([rule, paths]) =>
      paths.flatMap(path =>
        valuesAt(manifest, path === '' ? [] : path.split('.'))
          .filter(({ value }) => evaluate(rule, { self: asCel(value) }) !== true)
          .map(
            ({ at, value }) => `${nameOf(manifest)}: ${at.join('.')} is ${JSON.stringify(value)}, against "${rule}"`,
          ),
      ),
    ),
  )
}

function valuesAt(
  value: Manifest,
  path: readonly string[],
  at: readonly string[] = [],
): { readonly at: readonly string[]; readonly value: Manifest }[] {
  if (value === undefined || value === null) return []
  const [step, ...rest] = path
  if (step === undefined) return [{ at, value }]
  if (step === '[]' || step === '{}')
    return Object.entries(value).flatMap(([key, each]) => valuesAt(each, rest, [...at, key]))
  return valuesAt(value[step], rest, [...at, step])
}

/** Whole numbers are integers in CEL. */
function asCel(value: Manifest): Manifest {
  if (typeof value === 'number' && Number.isInteger(value)) return BigInt(value)
  if (Array.isArray(value)) return value.map(asCel)
  if (value !== null && typeof value === 'object')
    return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, asCel(each)]))
  return value
}
