// npm start: sets up what is missing, then runs everything on this machine. Flags go after --: npm start -- --http-port 9000
import { root, setup } from './setup.mjs'

try {
  await setup('running')
} catch (error) {
  console.error(`percolate: ${error.message}`)
  process.exit(1)
}
process.argv = [process.argv[0], `${root}bin/percolate.mjs`, 'up', ...process.argv.slice(2)]
await import('../bin/percolate.mjs')
