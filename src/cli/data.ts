import type { Command } from 'commander'
import { addClientFlags, type ClientFlags, clientOf, guarded } from './common.ts'
import { fail, highlight, oneLine, printJson, printTable, say } from './output.ts'

/** `percolate search`, `get`, `put`, `chat`: the data commands. */
export function addDataCommands(program: Command): void {
  addClientFlags(program.command('search <query...>'))
    .description('search resources')
    .option('-n, --limit <number>', 'results', '10')
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
  flags: ClientFlags & { limit: string; mode: string; filter?: string },
): Promise<void> {
  const answer = await clientOf(flags).search({
    query: words.join(' '),
    limit: Number(flags.limit),
    mode: flags.mode,
    filter: flags.filter,
  })
  if (flags.json) return printJson(answer)
  for (const warning of answer.warnings ?? []) process.stderr.write(`note: ${warning}\n`)
  if (answer.results.length === 0) return say('Nothing found.')
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
