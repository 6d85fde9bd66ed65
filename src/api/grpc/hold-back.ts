import { constants, type ServerHttp2Stream } from 'node:http2'
import type { ServerInterceptingCallInterface } from '@grpc/grpc-js'
import type { SlowReaders } from '../slow-readers.ts'

/**
 * For services whose handlers answer every message and never look whether that is taken (reflection, health): of their calls the next message is read when the answers to those before have been taken, and who takes
 * none for too long is cut off.
 */
export function holdBack(
  call: ServerInterceptingCallInterface,
  stream: ServerHttp2Stream,
  readers?: SlowReaders,
): void {
  const [startRead, sendMessage] = [call.startRead.bind(call), call.sendMessage.bind(call)]
  let untaken = 0
  let isAsked = false
  let stop = () => {}
  call.startRead = () => {
    if (untaken > 0) isAsked = true
    else startRead()
  }
  call.sendMessage = (message, taken) => {
    stop()
    untaken++
    stop = readers?.watch(() => stream.close(constants.NGHTTP2_ENHANCE_YOUR_CALM)) ?? stop
    sendMessage(message, () => {
      untaken--
      if (untaken === 0) {
        stop()
        if (isAsked) {
          isAsked = false
          startRead()
        }
      }
      taken()
    })
  }
  stream.once('close', () => stop())
}
