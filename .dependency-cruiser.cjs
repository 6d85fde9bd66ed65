// Who may import whom. The order is that of the pipeline: base ← clock, rem, text ← storage, stream, objects ← tenant ← search, replication, jobs ← session ← api ← roots.
const layer = (name, from, allowed) => ({
  name: `layer-${name}`,
  comment: `${from} imports only from ${allowed.join(', ')}`,
  severity: 'error',
  from: { path: `^${from}/` },
  to: {
    path: '^(src|client|workers|gateway|bench|test-topology)/',
    pathNot: [from, ...allowed].map(folder => `^${folder}`),
  },
})
const base = ['src/base', 'src/types']
const pure = [...base, 'src/clock', 'src/rem', 'src/text']
const ports = [...pure, 'src/storage', 'src/stream', 'src/objects']

const only = (name, package_, folder) => ({
  name: `only-${name}`,
  comment: `${package_} is known in ${folder} only`,
  severity: 'error',
  from: { path: '^(src|client|workers|gateway)/', pathNot: `^${folder}` },
  to: { path: `node_modules/${package_}` },
})

module.exports = {
  forbidden: [
    { name: 'no-cycles', severity: 'error', from: {}, to: { circular: true } },
    {
      name: 'no-orphans',
      severity: 'error',
      from: { orphan: true, path: '^(src|client|workers|gateway)/', pathNot: ['\\.d\\.ts$', '\\.test\\.ts$'] },
      to: {},
    },
    {
      name: 'no-dev-packages',
      severity: 'error',
      from: { path: '^(src|client|workers|gateway)/' },
      to: { dependencyTypes: ['npm-dev', 'npm-no-pkg'] },
    },
    layer('base', 'src/base', ['src/types']),
    layer('clock', 'src/clock', base),
    layer('rem', 'src/rem', [...base, 'src/clock', 'src/text']),
    layer('text', 'src/text', base),
    layer('storage', 'src/storage', pure),
    layer('stream', 'src/stream', base),
    layer('objects', 'src/objects', [...base, 'src/storage']),
    layer('config', 'src/config', base),
    layer('tenant', 'src/tenant', [...pure, 'src/storage']),
    layer('embedding', 'src/embedding', [...base, 'src/text', 'src/config']),
    layer('search', 'src/search', [...pure, 'src/storage', 'src/tenant', 'src/embedding']),
    layer('replication', 'src/replication', [...ports, 'src/tenant']),
    layer('session', 'src/session', [...pure, 'src/storage', 'src/tenant', 'src/replication']),
    layer('activator', 'src/activator', [...base, 'src/replication']),
    layer('jobs', 'src/jobs', [...base, 'src/clock', 'src/stream']),
    layer('chat', 'src/chat', [...pure, 'src/tenant', 'src/search', 'src/embedding']),
    layer('api', 'src/api', [
      ...pure,
      'src/storage',
      'src/tenant',
      'src/search',
      'src/embedding',
      'src/chat',
      'src/replication',
      'src/session',
    ]),
    layer('client', 'client', ['src/api/schemas', 'src/base']),
    {
      name: 'data-through-the-client',
      comment: 'workers and gateway reach data through client/ only',
      severity: 'error',
      from: { path: '^(workers|gateway|bench)/' },
      to: {
        path: '^src/(tenant|search|replication|session|api/operations|api/grpc)/',
        pathNot: '^src/api/grpc/server',
      },
    },
    only('rocksdb', '(level-)?rocksdb/', 'src/storage/rocksdb'),
    only('nats', 'nats/', 'src/stream/nats/'),
    only('aws', '@aws-sdk/', 'src/objects/s3'),
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    tsPreCompilationDeps: true,
    tsConfig: { fileName: 'tsconfig.json' },
    enhancedResolveOptions: {
      exportsFields: ['exports'],
      conditionNames: ['import', 'require', 'node', 'default', 'types'],
    },
  },
}
