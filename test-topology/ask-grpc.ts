import { type Client, credentials, loadPackageDefinition, Metadata, type ServiceClientConstructor } from '@grpc/grpc-js'
import { loadRemProto } from '../src/api/grpc/protos.ts'
import { isLostCall, undocumented } from './lost-answers.ts'

export interface GrpcAnswer {
  /** As in the HTTP API, so that both can be judged alike: 200, or the error's code with its gRPC status. */
  readonly failure: string | undefined
  readonly entryNode: string
  /** What came before the answer and behind it. */
  readonly metadata: Readonly<Record<string, string>>
  // biome-ignore lint/suspicious/noExplicitAny: answers of every shape.
  readonly body: any
}

type Unary = (
  message: unknown,
  metadata: Metadata,
  options: { deadline: number },
  done: (error: Failed | null, body: unknown) => void,
) => {
  on(event: 'metadata', handle: (metadata: Metadata) => void): void
  on(event: 'status', handle: (status: { metadata: Metadata }) => void): void
}

type ServerStream = (message: unknown, metadata: Metadata) => AsyncIterable<unknown> & { cancel(): void }

interface Failed extends Error {
  readonly code: number
  readonly details: string
  readonly metadata: Metadata
}

function failureOf(error: Failed): string {
  const code = error.metadata?.get('percolate-code')[0]
  const text = `gRPC ${error.code} ${code ?? error.message}`
  return code !== undefined || isLostCall(error) ? text : undocumented(text)
}

/** Calls of the gRPC API over one channel, as a client of the router. */
export class GrpcAsker {
  readonly #client: Client

  /** @param address `host:port` */
  constructor(address: string) {
    const { percolate } = loadPackageDefinition(loadRemProto()) as unknown as {
      percolate: { v1: { Rem: ServiceClientConstructor } }
    }
    this.#client = new percolate.v1.Rem(address, credentials.createInsecure())
  }

  close(): void {
    this.#client.close()
  }

  /** A call with many answers, as they come; rejects with what gRPC says. */
  follow(
    method: string,
    headers: Record<string, string>,
    message: unknown,
    signal: AbortSignal,
  ): AsyncIterable<unknown> {
    const metadata = new Metadata()
    for (const [name, value] of Object.entries(headers)) metadata.set(name, value)
    const call = (this.#client as unknown as Record<string, ServerStream>)[method]!.call(
      this.#client,
      message,
      metadata,
    )
    signal.addEventListener('abort', () => call.cancel(), { once: true })
    return call
  }

  /** A call with one answer; what goes wrong is told in it. */
  ask(method: string, headers: Record<string, string>, message: unknown, timeoutMs = 10_000): Promise<GrpcAnswer> {
    return new Promise(resolve => {
      const metadata = new Metadata()
      for (const [name, value] of Object.entries(headers)) metadata.set(name, value)
      const got: Record<string, string> = {}
      const keep = (part: Metadata) => {
        for (const [name, value] of Object.entries(part.getMap())) got[name] = String(value)
      }
      const call = (this.#client as unknown as Record<string, Unary>)[method]!.call(
        this.#client,
        message,
        metadata,
        { deadline: Date.now() + timeoutMs },
        (error, body) => {
          if (error?.metadata) keep(error.metadata)
          const failure = error ? failureOf(error) : undefined
          // The status, and with it what comes behind the answer, follows the answer at once.
          const done = () => resolve({ failure, entryNode: got['x-percolate-entry-node'] ?? '', metadata: got, body })
          if (error) done()
          else
            call.on('status', ({ metadata: trailer }) => {
              keep(trailer)
              done()
            })
        },
      )
      call.on('metadata', keep)
    })
  }
}
