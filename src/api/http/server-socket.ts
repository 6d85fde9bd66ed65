import type { ServerResponse } from 'node:http'
import type { Socket } from 'node:net'

/**
 * The answer that is under way on a connection of a server; undefined: between two requests, or while one is still being received. Node tells of connections (`connection`, `timeout`, `clientError`) by the bare socket, and has
 * no public way from there to the answer: nobody else knows whether something may be written into it, or has been waited for. It keeps it in this member itself (lib/_http_server.js, all supported versions).
 */
export const answerUnderWay = (socket: Socket): ServerResponse | undefined =>
  (socket as Socket & { readonly _httpMessage?: ServerResponse | null })._httpMessage ?? undefined
