/**
 * Import direction, as docs/architecture.md "Code" states it. Each rule carries its reason: a violation should teach.
 * Layers, top to bottom; a file may import from its own folder and from lower layers.
 */
const LAYERS = [
  ['cli'],
  ['demo'],
  ['daemon', 'server', 'session'],
  ['view', 'gate', 'broker', 'guard', 'runtime', 'detect', 'supply', 'inventory'],
  ['audit', 'policy', 'profile', 'dlp'],
  ['lib'],
]

const folders = (names) => `^src/(${names.join('|')})/`

/** A layer never imports one that lies above it. */
const upward = LAYERS.slice(1).map((layer, index) => ({
  name: `${layer[0]}-imports-upward`,
  comment: 'Imports point one way (docs/architecture.md, Code): lower layers must work without the ones above.',
  severity: 'error',
  from: { path: folders(layer) },
  to: { path: folders(LAYERS.slice(0, index + 1).flat()) },
}))

/** Folders of the enforcement layer are strangers to each other. */
const sideways = LAYERS[3].map((name) => ({
  name: `${name}-imports-a-neighbour`,
  comment: 'Enforcement points never import each other; session/ wires them, so each can be replaced alone.',
  severity: 'error',
  from: { path: `^src/${name}/` },
  to: { path: folders(LAYERS[3].filter((other) => other !== name)) },
}))

module.exports = {
  forbidden: [
    ...upward,
    ...sideways,
    {
      name: 'session-imports-the-daemon',
      comment: 'A session talks to ambitd over its socket: only the client may be imported.',
      severity: 'error',
      from: { path: '^src/session/' },
      to: { path: '^src/(daemon|server)/', pathNot: '^src/daemon/(client|protocol)\\.ts$' },
    },
    {
      name: 'daemon-imports-session',
      comment: 'ambitd follows journals; it must run without any session code.',
      severity: 'error',
      from: { path: '^src/(daemon|server)/' },
      to: { path: '^src/session/' },
    },
    {
      name: 'runtime-by-name',
      comment: 'Runtimes are reached through src/runtime/runtimes.ts, so that a further one is a file and its name there.',
      severity: 'error',
      from: { path: '^src/', pathNot: '^src/runtime/' },
      to: { path: '^src/runtime/(os-sandbox|container|microvm)\\.ts$' },
    },
    {
      name: 'product-imports-tests',
      comment: 'Nothing that ships may depend on tests or benchmarks.',
      severity: 'error',
      from: { path: '^src/' },
      to: { path: '^(test|bench|fuzz)/' },
    },
    {
      name: 'circular',
      comment: 'A cycle of values has no layer order; types may refer to each other.',
      severity: 'error',
      from: { path: '^src/' },
      to: { circular: true, viaOnly: { dependencyTypesNot: ['type-only'] } },
    },
    {
      name: 'unresolvable',
      comment: 'The import names nothing that exists or is installed.',
      severity: 'error',
      from: {},
      to: { couldNotResolve: true },
    },
    {
      name: 'development-package-in-product',
      comment: 'The bundle may only hold packages listed under dependencies.',
      severity: 'error',
      from: { path: '^src/' },
      to: { dependencyTypes: ['npm-dev'] },
    },
  ],
  options: {
    parser: 'swc',
    tsPreCompilationDeps: true,
    doNotFollow: { path: 'node_modules' },
    // start.cjs is a template of the build.
    exclude: { path: '^(native|test/fixtures|\\.build)/|^src/start\\.cjs$' },
    enhancedResolveOptions: { extensions: ['.ts', '.js', '.json'], conditionNames: ['import', 'node', 'default'] },
  },
}
