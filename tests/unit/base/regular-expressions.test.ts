import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { analyse } from 'scslre'
import ts from 'typescript'
import { expect, it } from 'vitest'

/** What may take more than linear time, and why nothing comes of it. */
const KNOWN = new Map([
  [String.raw`/[^\n]*\n+|[^\n]+$/g`, 'the second half takes the last line, of which the first looks for an end once'],
  [String.raw`/\/+$/`, "an operator's setting"],
  [String.raw`/\?.*$/`, 'a URL has no line breaks: the first question mark matches'],
  [String.raw`/v?(\d+\.\d+\.\d+)/`, 'the version that nats-server prints'],
  ['/[.,;:]+$/', 'of a URL of at most some hundred characters'],
  [String.raw`/^[^\p{L}\p{N}]+|[^\p{L}\p{N}.]+$/gu`, 'in a process with a limit of time'],
  [String.raw`/\p{Lu}\S*\s+\p{Lu}/u`, 'of a name of at most eighty characters'],
  [String.raw`/\.+$/`, 'of an error that we wrote'],
])
/** The same may be wrong elsewhere. */
const WHERE = new Map([[String.raw`/\/+$/`, ['src/chat/model.ts', 'src/embedding/openai.ts']]])

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
  const isKnown = ({ file, text }: { file: string; text: string }) =>
    KNOWN.has(text) && (WHERE.get(text)?.includes(file) ?? true)
  expect(found.filter(one => !isKnown(one))).toEqual([])
  expect([...KNOWN.keys()].filter(text => !found.some(one => one.text === text))).toEqual([])
})
