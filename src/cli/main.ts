import { join } from 'node:path'
import { Command } from 'commander'
import { PACKAGE_FOLDER, VERSION } from '../base/version.ts'
import { addClusterCommands } from './cluster.ts'
import { addDataCommands } from './data.ts'
import { addIngestCommand } from './ingest.ts'
import { addOperateCommands } from './operate.ts'
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

program.command(
  'test-topology <command>',
  'a whole cluster with its autoscaler as real processes here, and scenarios that prove its claims (needs a clone)',
  { executableFile: join(PACKAGE_FOLDER, 'bin', 'percolate-test-topology.mjs') },
)

await program.parseAsync()
