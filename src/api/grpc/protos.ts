import { join } from 'node:path'
import { loadSync } from '@grpc/proto-loader'
import { PACKAGE_FOLDER } from '../../base/version.ts'

/** How messages look in code; the same for server and client. */
export const loaderOptions = {
  keepCase: true,
  longs: Number,
  enums: String,
  defaults: false,
  arrays: true,
  oneofs: false,
  includeDirs: [join(PACKAGE_FOLDER, 'proto')],
}

export const loadRemProto = () => loadSync('percolate/v1/rem.proto', loaderOptions)

/** Between nodes only, so it is not in the reflection service. */
export const loadPeerProto = () => loadSync('percolate/v1/replication.proto', loaderOptions)
