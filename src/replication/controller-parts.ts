import { Controller, type ControllerOptions } from './controller.ts'
import { type Directory, type DirectoryOptions, observingDirectory } from './directory.ts'
import type { PeerPort } from './peer.ts'

export interface ControllerPartsOptions
  extends Omit<ControllerOptions, 'directory' | 'peers'>,
    Pick<DirectoryOptions, 'heartbeatMs' | 'syncStreams'> {
  /** Of the directory's bucket. */
  readonly directoryReplicas: number
  readonly directoryBytesMax: DirectoryOptions['bytesMax']
  /** How nodes are reached; addresses are in the directory. */
  readonly peers: (addressOf: (node: string) => string | undefined) => PeerPort
}

export interface ControllerParts {
  readonly directory: Directory
  readonly peers: PeerPort
  readonly controller: Controller
}

/** A controller, and what it knows of the cluster as an observer, put together and not started. The simulator's are made here too. */
export function controllerParts(options: ControllerPartsOptions): ControllerParts {
  const { directoryReplicas, directoryBytesMax, heartbeatMs, syncStreams, peers: peersOf, ...rest } = options
  const { stream, time, logger, leaseMs } = rest
  const directory = observingDirectory({
    stream,
    time,
    logger,
    replicas: directoryReplicas,
    bytesMax: directoryBytesMax,
    leaseMs,
    heartbeatMs,
    syncStreams,
  })
  const peers = peersOf(node => directory.member(node)?.grpc)
  return { directory, peers, controller: new Controller({ ...rest, directory, peers }) }
}
