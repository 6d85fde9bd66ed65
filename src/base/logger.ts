import { type DestinationStream, type Logger as PinoLogger, pino } from 'pino'

export type Logger = PinoLogger

export interface LoggerOptions {
  readonly level: string
  readonly role: string
  /** Default: standard error, so that standard output stays the command's own. */
  readonly destination?: DestinationStream
}

/** Structured logs, one JSON object a line. Credentials are redacted by key, wherever they appear one or two levels deep. */
export function createLogger(options: LoggerOptions): Logger {
  const secretKeys = ['authorization', 'secret', 'secretAccessKey', 'apiKey', 'token', 'password', 'cookie']
  return pino(
    {
      level: options.level,
      base: { role: options.role, pid: process.pid },
      timestamp: pino.stdTimeFunctions.isoTime,
      redact: { paths: secretKeys.flatMap(key => [key, `*.${key}`, `*.*.${key}`]), censor: '[redacted]' },
    },
    options.destination ?? pino.destination({ dest: 2, sync: true }),
  )
}
