import { type Command, InvalidArgumentError } from 'commander'
import { LIST_LIMIT_MAX } from '../base/limits.ts'
import { addClientFlags, type ClientFlags, clientOf, guarded, hintIfUnknown } from './common.ts'
import { fail, highlight, oneLine, printJson, printTable, say } from './output.ts'

function resultCount(text: string): number {
  const count = Number(text)
  if (!Number.isInteger(count) || count < 1 || count > LIST_LIMIT_MAX)
    throw new InvalidArgumentError(`must be a whole number from 1 to ${LIST_LIMIT_MAX}.`)
  return count
}

/** `percolate search`, `get`, `put`, `chat`: the data commands. */
export function addDataCommands(program: Command): void {
  addClientFlags(program.command('search <query...>'))
    .description('search resources')
    .option('-n, --limit <number>', 'results', resultCount, 10)
    .option('-m, --mode <mode>', 'hybrid, text or vector', 'hybrid')
    .option('-f, --filter <filter>', 'as category:report or {"page":{"gte":3}}')
    .addHelpText(
      'after',
      '\nExamples:\n  percolate search "warranty period" -t acme\n  percolate search invoice -f document:march.pdf --json',
    )
    .action(guarded(search))
  addClientFlags(program.command('get <kind> [id]'))
    .description('read a resource, entity or moment by id; without an id, list them')
    .addHelpText(
      'after',
      '\nExamples:\n  percolate get entity person:ada-lovelace -t acme\n  percolate get moments -t acme',
    )
    .action(guarded(get))
  addClientFlags(program.command('put <kind> [json]'))
    .description('store a resource, entity or moment given as JSON (or on standard input)')
    .addHelpText(
      'after',
      '\nExamples:\n  percolate put resource \'{"content":"The fee is 2 %.","category":"prices"}\' -t acme\n  percolate put entity \'{"id":"ada","type":"person","name":"Ada Lovelace"}\' -t acme',
    )
    .action(guarded(put))
  addClientFlags(program.command('chat <question...>'))
    .description('ask about what is stored')
    .addHelpText('after', '\nExample:\n  percolate chat "How long is the warranty?" -t acme')
    .action(guarded(chat))
}

async function search(
  words: string[],
  flags: ClientFlags & { limit: number; mode: string; filter?: string },
): Promise<void> {
  const answer = await clientOf(flags).search({
    query: words.join(' '),
    limit: flags.limit,
    mode: flags.mode,
    filter: flags.filter,
  })
  if (flags.json) {
    printJson(answer)
    return answer.results.length === 0 ? hintIfUnknown(flags) : undefined
  }
  for (const warning of answer.warnings ?? []) process.stderr.write(`note: ${warning}\n`)
  if (answer.results.length === 0) {
    say('Nothing found.')
    return hintIfUnknown(flags)
  }
  for (const [n, result] of answer.results.entries()) {
    const { document, page, sheet } = result.metadata as { document?: string; page?: number; sheet?: string }
    const place = [document ?? result.name ?? result.uri ?? '', page === undefined ? '' : `page ${page}`, sheet ?? '']
      .filter(Boolean)
      .join(', ')
    say(`${String(n + 1).padStart(2)}. ${oneLine(place, 90)}   ${(result.score ?? 0).toFixed(4)}`)
    say(`    ${highlight(result.snippet ?? oneLine(result.content, 200))}`)
    say(`    ${result.id}`)
  }
}

async function get(kind: string, id: string | undefined, flags: ClientFlags): Promise<void> {
  const path = pathOf(kind)
  if (id !== undefined) return printJson(await clientOf(flags).request('GET', `${path}/${encodeURIComponent(id)}`))
  const page = await clientOf(flags).request<{ results: Record<string, unknown>[] }>('GET', path)
  if (page.results.length === 0) {
    if (flags.json) printJson(page)
    else say('There are none.')
    return hintIfUnknown(flags)
  }
  if (flags.json) return printJson(page)
  printTable(
    ['id', 'type', 'name', 'content'],
    page.results.map(item => [
      oneLine(String(item.id), 40),
      String(item.type ?? item.category ?? ''),
      oneLine(String(item.name ?? ''), 40),
      oneLine(String(item.content ?? ''), 60),
    ]),
  )
}

async function put(kind: string, json: string | undefined, flags: ClientFlags): Promise<void> {
  const path = pathOf(kind)
  let body: unknown
  try {
    body = JSON.parse(json ?? (await readStandardInput()))
  } catch (error) {
    fail(`That is not JSON: ${(error as Error).message}`)
  }
  const answer = await clientOf(flags).request<{ ids: string[] }>('POST', path, { body })
  if (flags.json) printJson(answer)
  else for (const id of answer.ids) say(id)
}

async function chat(words: string[], flags: ClientFlags): Promise<void> {
  const answer = await clientOf(flags).chat({ messages: [{ role: 'user', content: words.join(' ') }] })
  if (flags.json) printJson(answer)
  else say(answer.choices[0]?.message.content ?? '')
  if (answer.citations.length === 0) await hintIfUnknown(flags)
}

function pathOf(kind: string): string {
  const plural = {
    resource: 'resources',
    resources: 'resources',
    entity: 'entities',
    entities: 'entities',
    moment: 'moments',
    moments: 'moments',
  }[kind]
  if (!plural) fail(`There is no kind "${kind}": use resource, entity or moment.`)
  return `/api/v1/${plural}`
}

async function readStandardInput(): Promise<string> {
  if (process.stdin.isTTY) fail('Give the JSON as an argument or on standard input.')
  const chunks: Buffer[] = []
  for await (const chunk of process.stdin) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks).toString()
}
