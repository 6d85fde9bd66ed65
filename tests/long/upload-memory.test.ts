import { readFile } from 'node:fs/promises'
import { request as httpRequest } from 'node:http'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { type Launched, launchUp } from '../../test-topology/launch.ts'
import { remove, tempFolder } from '../support/running.ts'

const MIB = 1024 * 1024
const BYTES = 1024 * MIB

/** Streams zeros, as fast as the gateway takes them. */
function upload(up: Launched, bytes: number): Promise<number> {
  const head = '--b\r\nContent-Disposition: form-data; name="file"; filename="big.txt"\r\n\r\n'
  return new Promise((resolve, reject) => {
    const request = httpRequest(
      `${up.gateway}/upload`,
      { method: 'POST', headers: { 'x-tenant-id': 'big', 'content-type': 'multipart/form-data; boundary=b' } },
      response => {
        response.resume()
        response.on('end', () => resolve(response.statusCode ?? 0))
      },
    )
    request.on('error', reject)
    request.write(head)
    const piece = Buffer.alloc(MIB, 'x')
    let sent = 0
    const send = () => {
      while (sent < bytes) {
        sent += piece.length
        if (!request.write(piece)) return void request.once('drain', send)
      }
      request.end('\r\n--b--\r\n')
    }
    send()
  })
}

const rss = async (pid: number) => (Number((await readFile(`/proc/${pid}/statm`, 'utf8')).split(' ')[1]) * 4096) / MIB

it.runIf(process.platform === 'linux')('uploading 1 GB keeps the memory of gateway and embedded S3 flat', async () => {
  const folder = await tempFolder()
  const up = await launchUp({ dataDir: join(folder, 'data'), env: { PERCOLATE_LOG_LEVEL: 'error' } })
  expect(await upload(up, 32 * MIB)).toBe(202)
  const before = await rss(up.pid)
  const curve: number[] = []
  const sampler = setInterval(() => void rss(up.pid).then(value => curve.push(value)), 100)
  const startedAt = Date.now()
  expect(await upload(up, BYTES)).toBe(202)
  clearInterval(sampler)
  const seconds = (Date.now() - startedAt) / 1000
  const step = Math.max(1, Math.floor(curve.length / 12))
  console.log(
    `RSS in MiB before: ${before.toFixed(0)}; while 1 GiB went through in ${seconds.toFixed(1)} s: ${curve
      .filter((_, n) => n % step === 0)
      .map(value => value.toFixed(0))
      .join(' ')}`,
  )
  // Flat: it grows by a few parts of 5 MiB and what the collector leaves, not by the upload.
  expect(Math.max(...curve) - before).toBeLessThan(200)
  await up.stop()
  await remove(folder)
})
