import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { analyse } from 'scslre'
import ts from 'typescript'
import { expect, it } from 'vitest'

/** What may take more than linear time, and why nothing comes of it. */
const KNOWN = new Map([
  ['src/api/operations/chat.ts', 'the second half takes the last line, of which the first looks for an end once'],
  ['src/chat/model.ts', "an operator's setting"],
  ['src/embedding/openai.ts', "an operator's setting"],
  ['src/objects/embedded/server.ts', 'a URL has no line breaks: the first question mark matches'],
  ['src/stream/nats/server.ts', 'the version that nats-server prints'],
  ['workers/extract/entities.ts', 'of at most a line, in a process with a limit of time'],
  ['workers/runner.ts', 'an error that we wrote'],
])

const FILES = ['src', 'gateway', 'workers', 'client'].flatMap(folder =>
  readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter(name => name.endsWith('.ts'))
    .map(name => join(folder, name)),
)

function* expressionsOf(file: string): Generator<string> {
  const pending: ts.Node[] = [ts.createSourceFile(file, readFileSync(file, 'utf8'), ts.ScriptTarget.Latest)]
  for (let node = pending.pop(); node; node = pending.pop()) {
    if (ts.isRegularExpressionLiteral(node)) yield node.text
    ts.forEachChild(node, child => void pending.push(child))
  }
}

const isSuperLinear = (text: string): boolean => {
  const end = text.lastIndexOf('/')
  const { reports } = analyse({ source: text.slice(1, end), flags: text.slice(end + 1) })
  return reports.length > 0
}

it('take time in proportion to what they are given, which may be hostile', () => {
  // What stopped a node for seconds, and for a minute and a half.
  expect([String.raw`/\/+$/`, String.raw`/^\s*([^:=\s]+)\s*[:=]\s*(.+?)\s*$/`].filter(isSuperLinear)).toHaveLength(2)
  const found = FILES.flatMap(file => [...expressionsOf(file)].filter(isSuperLinear).map(text => ({ file, text })))
  expect(found.filter(({ file }) => !KNOWN.has(file))).toEqual([])
  expect([...KNOWN.keys()].filter(file => !found.some(({ file: known }) => known === file))).toEqual([])
})
