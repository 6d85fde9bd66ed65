import { describe, expect, it } from 'vitest'
import { BusyUploads, type PlacedUpload } from '../../../gateway/busy-uploads.ts'
import { FairSemaphore } from '../../../src/base/fair-semaphore.ts'

const WAITED_MS = 1000

/** A gateway whose places are all taken by uploads of so many bytes a second, each of a tenant of its own; undefined: not known yet. */
async function fullOf(...paces: (number | undefined)[]) {
  let nowMs = 0
  const places = new FairSemaphore({
    permits: paces.length,
    perKeyMax: Math.ceil(paces.length / 2),
    waitersMax: 100,
    waitersPerKeyMax: 100,
    name: 'uploading',
    time: { monotonic: () => nowMs },
  })
  const busy = new BusyUploads(places)
  const uploads: PlacedUpload[] = []
  for (const [n, bytesPerSecondInAll] of paces.entries()) {
    const upload = { tenant: `t${n}`, bytesPerSecond: undefined, bytesPerSecondInAll }
    await places.acquire(upload.tenant)
    busy.enter(upload)
    uploads.push(upload)
  }
  const goes = () => uploads.flatMap((upload, n) => (busy.isSlowestInAll(upload, WAITED_MS) ? [n] : []))
  const wait = (tenant: string, ms = WAITED_MS) => {
    void places.acquire(tenant)
    nowMs += ms
  }
  return { busy, uploads, goes, wait }
}

describe('the slowest upload, over its whole time', () => {
  it('gives way to another that has waited, and to nobody before', async () => {
    const { goes, wait } = await fullOf(40, 10, 30, 20)
    expect(goes()).toEqual([])
    wait('newcomer', WAITED_MS - 1)
    expect(goes()).toEqual([])
    wait('other', 1)
    expect(goes()).toEqual([1])
  })

  it('one for each that has waited, and never one of the faster half', async () => {
    const { busy, uploads, goes, wait } = await fullOf(40, 10, 30, 20)
    wait('a')
    busy.leave(uploads[1]!)
    expect(goes()).toEqual([])
    for (const tenant of ['b', 'c', 'd', 'e']) wait(tenant)
    expect(goes()).toEqual([3])
    busy.leave(uploads[3]!)
    expect(goes()).toEqual([])
  })

  it('one that is not known yet is neither slower nor faster than others', async () => {
    const { goes, wait } = await fullOf(40, undefined, 30, undefined)
    wait('newcomer')
    expect(goes()).toEqual([])
  })

  it('its own tenant, which waits for its share, does not count', async () => {
    const { goes, wait } = await fullOf(40, 10)
    wait('t1')
    wait('t0')
    expect(goes()).toEqual([])
    wait('newcomer')
    expect(goes()).toEqual([1])
  })
})
