import { describe, expect, it } from 'vitest'
import { PercolateError } from '../../../src/base/errors.ts'
import { Probes } from '../../../src/base/probes.ts'

describe('readiness probes', () => {
  it('name what fails, and why; one that is not required fails nothing', async () => {
    const probes = new Probes(1000)
    probes.add('disk', () => {})
    probes.add('stream', () => Promise.reject(new PercolateError('STREAM_UNAVAILABLE', 'away')), { required: false })
    expect(await probes.check()).toEqual({
      ready: true,
      probes: [
        { name: 'disk', ok: true },
        { name: 'stream', ok: false, detail: 'away' },
      ],
    })
    probes.add('disk', () => Promise.reject(new Error('/secret/path')))
    expect(await probes.check()).toMatchObject({ ready: false, probes: [{ detail: 'failed' }, {}] })
  })

  it('of copies fail only what asks for copies', async () => {
    const probes = new Probes(1000)
    let left = 2
    const copies = () => {
      if (left > 0) throw new PercolateError('TENANT_UNAVAILABLE', `${left} left`)
    }
    probes.add('copies', copies, { required: 'copies' })
    expect(await probes.check()).toEqual({ ready: true, probes: [{ name: 'copies', ok: false, detail: '2 left' }] })
    expect((await probes.check({ copies: true })).ready).toBe(false)
    left = 0
    expect((await probes.check({ copies: true })).ready).toBe(true)
  })

  it('count as they did last while they hang, and as failed when their time is up; they are not asked twice at once', async () => {
    const probes = new Probes(600)
    let asked = 0
    let isHanging = false
    probes.add('stream', () => {
      asked++
      return isHanging ? new Promise(() => {}) : undefined
    })
    expect((await probes.check()).ready).toBe(true)
    isHanging = true
    expect((await probes.check()).ready).toBe(true)
    expect((await probes.check()).ready).toBe(true)
    expect(asked).toBe(2)
    await expect.poll(async () => (await probes.check()).ready, { timeout: 5000 }).toBe(false)
    expect((await probes.check()).probes).toEqual([{ name: 'stream', ok: false, detail: 'no answer in time' }])
    isHanging = false
    await expect.poll(async () => (await probes.check()).ready, { timeout: 5000 }).toBe(true)
  })
})
