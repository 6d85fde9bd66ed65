import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { Command } from 'commander'
import { PACKAGE_FOLDER, VERSION } from '../base/version.ts'
import { addClusterCommands } from './cluster.ts'
import { addDataCommands } from './data.ts'
import { addIngestCommand } from './ingest.ts'
import { addOperateCommands } from './operate.ts'
import { fail } from './output.ts'
import { addServeCommands } from './serve.ts'

const program = new Command('percolate')
  .description(
    'A REM database for AI products: Resources, Entities and Moments, a database of its own for every tenant.',
  )
  .version(VERSION)
  .showHelpAfterError('(percolate --help lists commands, percolate COMMAND --help their flags)')
  .addHelpText(
    'after',
    '\nExamples:\n  percolate up                             run everything here\n  percolate ingest handbook.pdf -t acme    upload a document and wait until it is searchable\n  percolate search "warranty" -t acme\n  percolate chat "How long is the warranty?" -t acme',
  )

addServeCommands(program)
addClusterCommands(program)
addIngestCommand(program)
addDataCommands(program)
addOperateCommands(program)

program
  .command('test-topology')
  .description('a whole cluster with its autoscaler as real processes here, and scenarios that prove its claims')
  .helpOption(false)
  .allowUnknownOption()
  .allowExcessArguments()
  .action(async () => {
    // By its path: the code of the product knows nothing of what tests it.
    const path = join(PACKAGE_FOLDER, 'dist', 'test-topology', 'commands.js')
    const loaded = (await import(pathToFileURL(path).href).catch(error => {
      if ((error as NodeJS.ErrnoException).code !== 'ERR_MODULE_NOT_FOUND') throw error
      fail('The test topology runs from a clone of the repository, with its development packages ("npm run setup").')
    })) as { topologyProgram: () => Command }
    await loaded.topologyProgram().parseAsync(process.argv.slice(3), { from: 'user' })
  })

await program.parseAsync()
