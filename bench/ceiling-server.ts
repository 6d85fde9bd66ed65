import fastify from 'fastify'

/** What HTTP alone costs here: a Fastify route that answers a constant. Prints its port. */
const app = fastify()
app.get('/', async () => ({ ok: true }))
app.post('/', async () => ({ ok: true }))
await app.listen({ host: '127.0.0.1', port: 0 })
const address = app.server.address()
console.log(typeof address === 'object' ? address?.port : address)
