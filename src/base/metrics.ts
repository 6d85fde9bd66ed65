import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'
import type { Connections } from './connections.ts'

/** Buckets in seconds, from a cached read to a request that is about to time out. */
const DURATION_BUCKETS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30]

/** The metrics of one server, with Node's own (event-loop lag, memory, garbage collection). Tenant ids are never labels. */
export class Metrics {
  readonly registry = new Registry()
  readonly #durations: Histogram<'protocol' | 'operation' | 'status'>
  readonly #errors: Counter<'code'>
  readonly #connections = new Map<string, Connections>()

  constructor() {
    collectDefaultMetrics({ register: this.registry, eventLoopMonitoringPrecision: 1 })
    this.#durations = new Histogram({
      name: 'percolate_request_duration_seconds',
      help: 'Time from the arrival of a request to the end of its answer',
      labelNames: ['protocol', 'operation', 'status'],
      buckets: DURATION_BUCKETS,
      registers: [this.registry],
    })
    this.#errors = new Counter({
      name: 'percolate_errors_total',
      help: 'Requests that ended in an error, by its code',
      labelNames: ['code'],
      registers: [this.registry],
    })
    this.#connectionsGauge(
      'percolate_connections',
      'Connections that a server has, PERCOLATE_CONNECTIONS_MAX at most',
      c => c.open,
    )
    this.#connectionsGauge(
      'percolate_connections_gave_way_total',
      'Connections without a request under way that a server closed because another one came and there was no more room',
      c => c.gaveWay,
    )
    this.#connectionsGauge(
      'percolate_connections_refused_total',
      'Connections that a server closed at once, since requests were under way on all that it may have',
      c => c.refused,
    )
  }

  /** Shows the connections of a server of this process. */
  addConnections(server: string, connections: Connections): Connections {
    this.#connections.set(server, connections)
    return connections
  }

  #connectionsGauge(name: string, help: string, read: (connections: Connections) => number): void {
    const servers = this.#connections
    new Gauge({
      name,
      help,
      labelNames: ['server'],
      registers: [this.registry],
      collect() {
        for (const [server, connections] of servers) this.set({ server }, read(connections))
      },
    })
  }

  observeRequest(protocol: 'http' | 'grpc', operation: string, status: string, seconds: number): void {
    this.#durations.observe({ protocol, operation, status }, seconds)
  }

  countError(code: string): void {
    this.#errors.inc({ code })
  }

  counter<L extends string>(name: string, help: string, labelNames: readonly L[] = []): Counter<L> {
    return new Counter({ name, help, labelNames: [...labelNames], registers: [this.registry] })
  }

  /** A gauge that is read when it is scraped. */
  gauge(name: string, help: string, read: () => number, labels: Record<string, string> = {}): void {
    const labelNames = Object.keys(labels)
    new Gauge({
      name,
      help,
      labelNames,
      registers: [this.registry],
      collect() {
        this.set(labels, read())
      },
    })
  }

  /** As {@link gauge}, with a value for each of a few labels known beforehand; what can't be asked for now is left out of the page. */
  labelledGauge(
    name: string,
    help: string,
    label: string,
    values: readonly string[],
    read: (value: string) => number | Promise<number>,
  ): void {
    new Gauge({
      name,
      help,
      labelNames: [label],
      registers: [this.registry],
      async collect() {
        // Together: a page that waits for one answer after the other while nobody answers comes too late for who scrapes it.
        await Promise.all(
          values.map(async value => {
            try {
              this.set({ [label]: value }, await read(value))
            } catch {
              this.remove({ [label]: value })
            }
          }),
        )
      },
    })
  }

  /** As {@link gauge}, for what has to be asked for; when the answer fails, the gauge is left out of the page. */
  asyncGauge(name: string, help: string, read: () => Promise<number>): void {
    new Gauge({
      name,
      help,
      registers: [this.registry],
      async collect() {
        try {
          this.set(await read())
        } catch {
          this.reset()
          this.remove()
        }
      },
    })
  }

  histogram(name: string, help: string, buckets: readonly number[] = DURATION_BUCKETS): Histogram {
    return new Histogram({ name, help, buckets: [...buckets], registers: [this.registry] })
  }
}
