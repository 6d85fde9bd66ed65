import { PercolateError } from '../../src/base/errors.ts'
import { timeoutSignal } from '../../src/base/timeout.ts'
import type { JetStreamTrigger, PrometheusTrigger, Trigger } from './scaled-object.ts'

const ANSWER_MS_MAX = 3000

/** Where the hosts of a cluster are on this machine: `host:port` of a manifest to `host:port` here. */
export type Hosts = ReadonlyMap<string, string>

/** The value of a trigger, as KEDA's scaler of that type gets it. Throws when it can't be had. */
export function readTrigger(trigger: Trigger, hosts: Hosts): Promise<number> {
  return trigger.type === 'prometheus' ? readPrometheus(trigger, hosts) : readLag(trigger, hosts)
}

/** https://github.com/kedacore/keda/blob/v2.16.1/pkg/scalers/prometheus_scaler.go */
async function readPrometheus(trigger: PrometheusTrigger, hosts: Hosts): Promise<number> {
  const url = here(`${trigger.serverAddress}/api/v1/query?query=${encodeURIComponent(trigger.query)}`, hosts)
  const { data } = (await getJson(url)) as { data: { result: { value: [number, string] }[] } }
  if (data.result.length > 1) throw failed(trigger, 'the query has more than one result')
  const value = Number(data.result[0]?.value[1] ?? Number.NaN)
  if (Number.isFinite(value)) return value
  if (trigger.ignoreNullValues) return 0
  throw failed(trigger, 'the query has no result')
}

interface ConsumerDetail {
  readonly name: string
  readonly num_pending: number
  readonly num_ack_pending: number
  readonly cluster?: { readonly leader?: string }
}
interface Jsz {
  readonly account_details?: {
    readonly name: string
    readonly stream_detail?: {
      readonly name: string
      readonly state: { readonly last_seq: number }
      readonly consumer_detail?: ConsumerDetail[]
    }[]
  }[]
}

/** Messages that wait or are being worked on, from the leader of the consumer: https://github.com/kedacore/keda/blob/v2.16.1/pkg/scalers/nats_jetstream_scaler.go */
async function readLag(trigger: JetStreamTrigger, hosts: Hosts): Promise<number> {
  const at = async (host: string) => {
    const url = `http://${host}/jsz?acc=${encodeURIComponent(trigger.account)}&consumers=true&config=true`
    const answer = (await getJson(here(url, hosts))) as Jsz
    return answer.account_details
      ?.find(({ name }) => name === trigger.account)
      ?.stream_detail?.find(({ name }) => name === trigger.stream)
  }
  let stream = await at(trigger.endpoint)
  const consumerOf = (found: typeof stream) => found?.consumer_detail?.find(({ name }) => name === trigger.consumer)
  const leader = consumerOf(stream)?.cluster?.leader
  if (leader !== undefined) stream = await at(`${leader}.${trigger.endpoint}`)
  if (!stream) throw failed(trigger, `stream ${trigger.stream} is not known to ${trigger.endpoint}`)
  const consumer = consumerOf(stream)
  // As KEDA does: a consumer that is not there has everything still to read.
  return consumer ? consumer.num_pending + consumer.num_ack_pending : stream.state.last_seq
}

function here(url: string, hosts: Hosts): string {
  const { protocol, host, pathname, search } = new URL(url)
  const local = hosts.get(host)
  if (local === undefined)
    throw new PercolateError(
      'INVALID_ARGUMENT',
      `The manifest asks ${host}, which has no counterpart on this machine; known are ${[...hosts.keys()].join(', ')}.`,
      { field: 'ScaledObject' },
    )
  return `${protocol}//${local}${pathname}${search}`
}

async function getJson(url: string): Promise<unknown> {
  const answer = await fetch(url, { signal: timeoutSignal(ANSWER_MS_MAX) })
  if (!answer.ok) throw new PercolateError('INTERNAL', `${url} answers ${answer.status}.`)
  return answer.json()
}

const failed = (trigger: Trigger, reason: string) =>
  new PercolateError('INTERNAL', `Trigger ${trigger.name}: ${reason}.`)
