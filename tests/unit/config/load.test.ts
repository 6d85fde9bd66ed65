import { resolve } from 'node:path'
import { describe, expect, it } from 'vitest'
import { loadConfig, unknownVariables } from '../../../src/config/load.ts'
import { settings } from '../../../src/config/settings.ts'

describe('settings', () => {
  it('have defaults, take variables, and let flags win', () => {
    const config = loadConfig({
      role: 'up',
      env: { PERCOLATE_HTTP_PORT: '9000', PERCOLATE_GRPC_PORT: '9001' },
      flags: { grpcPort: '9002' },
    })
    expect([config.httpPort, config.grpcPort, config.gatewayPort, config.dataDir]).toEqual([
      9000,
      9002,
      8081,
      resolve('./data'),
    ])
    expect(Object.isFrozen(config)).toBe(true)
  })

  it('are checked all at once, and secrets are not repeated', () => {
    const load = () =>
      loadConfig({
        role: 'worker',
        env: {
          PERCOLATE_WORKER_PORT: '-1',
          PERCOLATE_LOG_LEVEL: 'loud',
          PERCOLATE_TIER: 'No Tier',
          PERCOLATE_S3_ENDPOINT: 'ftp://x',
          PERCOLATE_S3_SECRET_KEY: 'hush',
        },
      })
    expect(load).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID' }))
    for (const part of [
      'PERCOLATE_WORKER_PORT',
      'PERCOLATE_LOG_LEVEL',
      'PERCOLATE_TIER',
      'PERCOLATE_S3_ENDPOINT',
      'PERCOLATE_NATS_URL is needed',
    ])
      expect(load).toThrow(part)
    expect(load).not.toThrow('hush')
  })

  it('of one process do not share a port', () => {
    expect(() => loadConfig({ role: 'up', env: { PERCOLATE_HTTP_PORT: '8081' } })).toThrow(
      /PERCOLATE_HTTP_PORT and PERCOLATE_GATEWAY_PORT are the same port/,
    )
  })

  it('in production a zone that nobody filled in is refused, not taken for one', () => {
    const env = { PERCOLATE_MODE: 'production', PERCOLATE_ZONE: '' }
    expect(() => loadConfig({ role: 'node', env })).toThrow(/PERCOLATE_ZONE is set and empty/)
    expect(loadConfig({ role: 'node', env: { ...env, PERCOLATE_ZONE: 'a' } }).zone).toBe('a')
    expect(loadConfig({ role: 'node', env, flags: { zone: 'b' } }).zone).toBe('b')
    expect(loadConfig({ role: 'node', env: { PERCOLATE_ZONE: '' } }).zone).toBe('local')
  })

  it('that are misspelt are noticed', () => {
    expect(
      unknownVariables({ PERCOLATE_HTP_PORT: '1', PERCOLATE_URL: 'x', OTHER: '1', PERCOLATE_HTTP_PORT: '1' }),
    ).toEqual(['PERCOLATE_HTP_PORT'])
  })

  it('have names of one kind, and a meaning', () => {
    for (const setting of Object.values(settings)) {
      expect(setting.env).toMatch(/^PERCOLATE_[A-Z0-9_]+$/)
      expect(setting.doc.length).toBeGreaterThan(8)
      expect(setting.roles.length).toBeGreaterThan(0)
    }
  })
})
