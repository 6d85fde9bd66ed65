import { status } from '@grpc/grpc-js'

/** Answers that no node gave, as docs/errors.md lists them: what was done of a write is not known. Whatever else comes without a code of the error table is a defect. */

interface GrpcEnd {
  readonly code: number
  readonly details: string
}

/** For calls whose client does not cancel them. */
export function isLostCall({ code, details }: GrpcEnd): boolean {
  switch (code) {
    case status.UNAVAILABLE:
    case status.DEADLINE_EXCEEDED:
    // A router that ends a call whose client still sends, or a connection that was ended with its calls.
    case status.CANCELLED:
      return true
    // HTTP/2 streams that end behind the head and without a status.
    case status.INTERNAL:
      return details.startsWith('Received RST_STREAM with code')
    // Of a reader that was cut off.
    case status.RESOURCE_EXHAUSTED:
      return details.startsWith('Bandwidth exhausted')
    default:
      return false
  }
}

/** A router's answer for a node that it does not reach. */
export const isRoutersStatus = (httpStatus: number): boolean => [502, 503, 504].includes(httpStatus)

/** Marks what must not come at all. */
export const undocumented = (what: string): string => `UNDOCUMENTED ${what}`

/** Whether clients met what they must not, by what they noted: an answer that nothing documents, or a defect. */
export const isDefect = (noted: string): boolean => noted.startsWith('UNDOCUMENTED ') || /\bINTERNAL$/.test(noted)
