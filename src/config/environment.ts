/** The environment of this process, which nobody else reads: settings by `load.ts`, the rest by what follows. */
export const environment = (): Readonly<NodeJS.ProcessEnv> => process.env

/** Where programs are looked for. */
export const searchPath = (): string => process.env.PATH ?? ''

/** What the commands that talk to a running Percolate take when no flag says otherwise. */
export const clientDefaults = (): { readonly tenant: string; readonly url: string; readonly gateway: string } => ({
  tenant: process.env.PERCOLATE_TENANT ?? 'default',
  url: process.env.PERCOLATE_URL ?? 'http://127.0.0.1:8080',
  gateway: process.env.PERCOLATE_GATEWAY_URL ?? 'http://127.0.0.1:8081',
})
