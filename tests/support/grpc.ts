import { type Client, credentials, loadPackageDefinition, Metadata, type ServiceClientConstructor } from '@grpc/grpc-js'
import { loadRemProto } from '../../src/api/grpc/protos.ts'

export type RemClient = Client &
  Record<
    string,
    // biome-ignore lint/suspicious/noExplicitAny: methods come from the definition.
    (...args: any[]) => any
  >

/** A client of the gRPC API at `host:port`, and the metadata that names the tenant. */
export function grpcClient(address: string, tenant: string): { client: RemClient; metadata: Metadata } {
  const { percolate } = loadPackageDefinition(loadRemProto()) as unknown as {
    percolate: { v1: { Rem: ServiceClientConstructor } }
  }
  const client = new percolate.v1.Rem(address, credentials.createInsecure())
  const metadata = new Metadata()
  metadata.set('x-tenant-id', tenant)
  return { client: client as unknown as RemClient, metadata }
}

/** Sends `count` resources as one stream. */
export const writeStream = (client: RemClient, metadata: Metadata, count: number): Promise<{ written: number }> =>
  new Promise((resolve, reject) => {
    const call = client.WriteResources!(metadata, (error: Error | null, answer: { written: number }) =>
      error ? reject(error) : resolve(answer),
    )
    for (let n = 0; n < count; n++) call.write({ content: `streamed ${n}`, uri: 'bulk', ordinal: n })
    call.end()
  })
