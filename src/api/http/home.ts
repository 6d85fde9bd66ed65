import type { FastifyInstance } from 'fastify'
import { VERSION } from '../../base/version.ts'

export interface HomeOptions {
  /** What listens here, such as `database node`. */
  readonly role: string
  readonly about: string
  readonly links: readonly { readonly href: string; readonly text: string }[]
}

/** `GET /`: a page for a person who opens the address in a browser, and the same as JSON for a program. */
export function addHome(app: FastifyInstance, { role, about, links }: HomeOptions): void {
  const page = `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Percolate ${role}</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:42rem;margin:3rem auto;padding:0 1rem;color:#222;background:#fff}a{color:#0b57d0}li{margin:.3rem 0}small{color:#666}
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}a{color:#8ab4f8}small{color:#999}}</style></head>
<body><h1>Percolate</h1><p>${about}</p><ul>
${links.map(({ href, text }) => `<li><a href="${href}">${href}</a>: ${text}</li>`).join('\n')}
</ul><small>${role}, version ${VERSION}</small></body></html>
`
  const summary = { name: 'percolate', role, version: VERSION, about, links }
  app.get('/', { schema: { hide: true } }, async (request, reply) =>
    /\btext\/html\b/.test(request.headers.accept ?? '')
      ? reply.type('text/html; charset=utf-8').header('vary', 'accept').send(page)
      : reply.header('vary', 'accept').send(summary),
  )
}
