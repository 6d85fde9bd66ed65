import { PercolateError, toPercolateError } from './errors.ts'

/** Why a server could not listen, in one sentence that names the setting to change. */
export function listenError(error: unknown, host: string, port: number, variable: string): PercolateError {
  const code = (error as { code?: string }).code
  if (code === 'EADDRINUSE') {
    return new PercolateError(
      'PORT_IN_USE',
      `Port ${port} on ${host} is in use by another process; stop it, or choose another port with ${variable}.`,
    )
  }
  if (code === 'EACCES') {
    return new PercolateError(
      'CONFIG_INVALID',
      `Port ${port} needs rights that this user lacks; choose one above 1023 with ${variable}.`,
    )
  }
  if (code === 'EADDRNOTAVAIL' || code === 'ENOTFOUND') {
    return new PercolateError('CONFIG_INVALID', `${host} is not an address of this machine; set PERCOLATE_HOST.`)
  }
  return toPercolateError(error)
}
