// The layer rules of docs/ARCHITECTURE.md, as a check.
const programs = 'agent|compactor|fs-gateway|control';
const onlyIn = (name, module, where) => ({
  name,
  comment: `${module} is imported in one place only`,
  severity: 'error',
  from: { pathNot: where },
  to: { path: `node_modules/${module}` },
});
module.exports = {
  forbidden: [
    {
      name: 'programs-are-apart',
      comment: 'A program imports itself and lib/; only bin/ imports every program.',
      severity: 'error',
      from: { path: `^(${programs})/` },
      to: { path: `^(${programs}|bin)/`, pathNot: '^$1/' },
    },
    { name: 'lib-imports-no-program', severity: 'error', from: { path: '^lib/' }, to: { path: `^(${programs}|bin)/` } },
    { name: 'no-cycles', severity: 'error', from: {}, to: { circular: true } },
    {
      name: 'meta-data-and-peers-know-no-fuse',
      severity: 'error',
      from: { path: '^fs-gateway/(meta|data|peers)/' },
      to: { path: '^fs-gateway/(fuse|vfs)/' },
    },
    {
      name: 'vfs-knows-no-wire',
      severity: 'error',
      from: { path: '^fs-gateway/vfs/' },
      to: { path: '^fs-gateway/fuse/' },
    },
    {
      name: 'mounts-load-no-yaml',
      comment: 'What each process of a mount loads is paid for by each pod.',
      severity: 'error',
      from: { path: '^(fs-gateway|lib/(meta|store|volume))/' },
      to: { path: '^lib/config/load.ts$|node_modules/yaml' },
    },
    {
      name: 'the-page-is-apart',
      comment:
        'web/ runs in a browser: it imports only itself and uPlot, and no program imports it. Of the API it imports the shapes, which are types.',
      severity: 'error',
      from: { path: '^web/' },
      to: { pathNot: '^(web/|node_modules/uplot/|control/volume-schemas.ts$)' },
    },
    {
      name: 'the-page-knows-shapes-only',
      severity: 'error',
      from: { path: '^web/' },
      to: { path: '^control/', dependencyTypesNot: ['type-only'] },
    },
    { name: 'nothing-imports-the-page', severity: 'error', from: { pathNot: '^web/' }, to: { path: '^web/' } },
    onlyIn('augurs-in-control', '@bsull/augurs', '^control/lake/'),
    onlyIn('jose-in-control', 'jose', '^control/auth/'),
    onlyIn('fastify-in-control', '(@fastify|fastify)', '^control/'),
    onlyIn('redis-in-its-adapter', 'ioredis', '^lib/meta/redis/'),
    onlyIn('s3-in-its-adapter', '@aws-sdk', '^lib/store/s3/'),
    onlyIn('duckdb-in-sql', '@duckdb', '^lib/sql/'),
    onlyIn('kafkajs-in-its-adapter', 'kafkajs', '^lib/log/kafka/'),
    onlyIn('platformatic-kafka-in-its-adapter', '@platformatic/kafka', '^lib/log/kafka/'),
    onlyIn('re2-in-patterns', 're2js', '^agent/pattern.ts'),
    onlyIn('cel-in-conditions', '@marcbachmann/cel-js', '^agent/transforms/condition.ts'),
    onlyIn('grpc-in-csi', '@grpc', '^fs-gateway/csi/'),
    onlyIn('mqtt-packet-in-its-source', 'mqtt-packet', '^agent/sources/mqtt/'),
    onlyIn('koffi-in-fuse', 'koffi', '^fs-gateway/fuse/'),
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    tsConfig: { fileName: 'tsconfig.json' },
    enhancedResolveOptions: {
      extensions: ['.ts', '.js', '.mjs'],
      exportsFields: ['exports'],
      conditionNames: ['import', 'node', 'default'],
    },
  },
};
