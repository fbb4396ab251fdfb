/**
 * Semantics, decided once and tested from one table: each row has the sentence of the design that it tests. Rows about what a
 * running view, gate or session does are tested with those; here is what a profile means.
 */
import assert from 'node:assert/strict'
import { mkdirSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { compileGlobs } from '../../src/lib/glob.ts'
import { decide } from '../../src/policy/decide.ts'
import type { Plan } from '../../src/profile/plan.ts'
import { refuses, World } from './support.ts'

const INVALID = 'ERR_PROFILE_INVALID'
const FORBIDDEN = 'ERR_PATH_FORBIDDEN'

const request = (host: string, path = '/', method = 'GET', port = 443, tls = true) =>
  ({ kind: 'http.request', host, port, tls, method, path }) as const
const state = { label: 'internal', stopped: null } as const
const effect = (plan: Plan, ...action: Parameters<typeof request>): string =>
  decide(request(...action), plan, state).effect

type Row = readonly [sentence: string, check: (world: World) => void]

const FILES: readonly Row[] = [
  [
    'Longest root wins',
    (world) => {
      mkdirSync(join(world.project, 'src'))
      const plan = world.plan(
        '  files:\n    - { path: "${project}", access: read }\n    - { path: "${project}/src", access: review }\n',
      )
      assert.deepEqual(
        plan.roots.map(({ id, path }) => [id, path]),
        [
          ['files[1]', join(world.project, 'src')],
          ['files[0]', world.project],
        ],
      )
    },
  ],
  [
    'two equal roots are an error',
    (world) => {
      const twice = `  files:\n    - { path: "\${project}", access: read }\n    - { path: "${world.project}/", access: write }\n`
      refuses(INVALID, /:7:\d+ files\[1\]: is the same directory as files\[0\]/, () => world.plan(twice))
    },
  ],
  [
    'a workspace inside the project keeps its own rule',
    (world) => {
      const workspace = join(world.project, 'work')
      const plan = world.plan(
        '  files:\n    - { path: "${project}", access: read }\n    - { path: "${workspace}", access: write }\n',
        { workspace },
      )
      assert.deepEqual(
        plan.roots.map(({ path, access, protect, create }) => [path, access, protect.length === 0, create]),
        [
          [workspace, 'write', true, true],
          [world.project, 'read', false, false],
        ],
      )
    },
  ],
  [
    "A file's label is the maximum of all that apply, never the longest match",
    (world) => {
      mkdirSync(join(world.project, 'src'))
      const plan = world.plan(
        '  files:\n    - { path: "${project}", access: read, label: confidential }\n    - { path: "${project}/src", access: read, label: public }\n',
      )
      assert.deepEqual(
        plan.roots.map((root) => root.label),
        ['confidential', 'confidential'],
      )
    },
  ],
  [
    'Paths inside equal paths outside',
    (world) => {
      const plan = world.plan('  files: [{ path: "${home}/ledger", access: read }]\n')
      assert.equal(plan.roots[0]?.path, join(world.home, 'ledger'))
    },
  ],
  [
    "${home} is the user's real home as a prefix",
    (world) => {
      symlinkSync(world.home, join(world.dir, 'link'))
      const plan = world.plan('  files: [{ path: "${home}/ledger", access: read }]\n', {
        home: join(world.dir, 'link'),
      })
      assert.equal(plan.roots[0]?.path, join(world.home, 'ledger'))
    },
  ],
  [
    'bare ${home} is refused',
    (world) => {
      for (const path of ['${home}', '${home}/', '${home}//', world.home, world.dir, '/']) {
        refuses(INVALID, /whole/, () => world.plan(`  files: [{ path: "${path}", access: read }]\n`))
      }
      refuses(INVALID, /whole home/, () =>
        world.plan('  files: [{ path: "${project}", access: read }]\n', { project: world.home }),
      )
    },
  ],
  [
    'AMBIT_HOME, policy and runtime directories inside or linked into any root: the session does not start',
    (world) => {
      for (const place of ['ambit', 'ambit/config', 'ambit/state', 'ambit/run', 'ambit/state/homes/x']) {
        mkdirSync(join(world.dir, place), { recursive: true })
        refuses(FORBIDDEN, /reaches Ambit's/, () =>
          world.plan(`  files: [{ path: "${join(world.dir, place)}", access: read }]\n`),
        )
      }
    },
  ],
  [
    'Hidden names ... Case-folded and NFC',
    (world) => {
      const [root] = world.plan(
        '  hide: ["**/caf\u00e9.txt"]\n  files: [{ path: "${project}", access: read }]\n',
      ).roots
      const hidden = compileGlobs(root?.hide ?? [])
      assert.deepEqual(['.ENV', 'a/.Env.local', 'ID_RSA', 'cafe\u0301.TXT', 'x/.ssh/config'].map(hidden), [
        true,
        true,
        true,
        true,
        true,
      ])
      assert.deepEqual(['.env.example', 'ledger.csv', 'src/env.ts'].map(hidden), [false, false, false])
    },
  ],
  [
    'hide > protect > review > read/write: hide lists keep their order, the last match wins',
    (world) => {
      const [root] = world.plan(
        '  hide: ["!**/.env"]\n  files: [{ path: "${project}", access: read, hide: ["**/.env"] }]\n',
      ).roots
      assert.equal(compileGlobs(root?.hide ?? [])('.env'), true)
    },
  ],
  [
    'Protected ... Default in ${project}: families P-01..07 and P-09',
    (world) => {
      const [root] = world.plan('  files: [{ path: "${project}", access: write }]\n').roots
      const shielded = compileGlobs(root?.protect ?? [])
      for (const name of PROTECTED) assert.equal(shielded(name), true, name)
      for (const name of FREE) assert.equal(shielded(name), false, name)
    },
  ],
  [
    'P-08 and agent instruction files are at least `review`',
    (world) => {
      const [root] = world.plan('  files: [{ path: "${project}", access: write }]\n').roots
      const reviewed = compileGlobs(root?.review ?? [])
      for (const name of REVIEWED) assert.equal(reviewed(name), true, name)
      assert.equal(reviewed('src/main.ts'), false)
    },
  ],
  [
    '${workspace} allows them all (clone, install and build must work)',
    (world) => {
      const [root] = world.plan('  files: [{ path: "${workspace}", access: write }]\n').roots
      for (const list of [root?.hide, root?.protect, root?.review]) assert.deepEqual(list, [])
    },
  ],
]

const words = (text: string): string[] => text.trim().split(/\s+/)

const PROTECTED = [
  /* P-01 */ '.bashrc .bash_profile .zshrc .zprofile .profile',
  /* P-02 */ '.gitconfig .gitmodules .git/config .git/hooks/pre-commit a/b/c/d/.git/hooks/x .git/modules/s/config',
  /* P-03 */ '.mcp.json .ripgreprc',
  /* P-04 */ '.vscode .vscode/tasks.json .vscode/settings.json .idea/workspace.xml',
  /* P-05 */ '.claude/commands/x.md .claude/agents/a.md .claude/settings.local.json .claude.json .claude/skills/s/SKILL.md',
  /* P-06 */ '.codex .codex/config.toml',
  /* P-07 */ '.cursor/mcp.json .gemini/settings.json .github/workflows/ci.yml .GitHub/Workflows/ci.yml',
  /* and no way around by the directories of installed packages */ '.vscode/node_modules/x .git/hooks/node_modules/x',
  /* P-09 */ '.ssh/authorized_keys .ssh/config .config/autostart/x .config/systemd/user/x.service crontab x.desktop',
].flatMap(words)
const FREE = words(
  '.git/objects/aa/bb .git/refs/heads/main .git/index .git/HEAD src/main.ts package.json AGENTS.md ' +
    'node_modules/x/.vscode/settings.json a/site-packages/x/y.desktop',
)
/** P-08, then agent instructions. */
const REVIEWED = [
  '.npmrc a/package.json .yarnrc pip.conf conftest.py Makefile setup.py .envrc .pre-commit-config.yaml .husky/x build.rs',
  'AGENTS.md CLAUDE.md a/GEMINI.md .github/copilot-instructions.md',
].flatMap(words)

const NETWORK: readonly Row[] = [
  [
    'Omitted `methods` or `paths` = all',
    (world) => {
      const plan = world.plan('  network: [{ host: a.example }]\n')
      assert.deepEqual([plan.network[0]?.methods, plan.network[0]?.paths], [null, null])
      assert.equal(effect(plan, 'a.example', '/x/y', 'DELETE'), 'allow')
    },
  ],
  [
    'omitted `ports` = 443',
    (world) => {
      const plan = world.plan('  network: [{ host: a.example }]\n')
      assert.deepEqual(plan.network[0]?.ports, [443])
      assert.deepEqual(
        [443, 8443, 80].map((port) => effect(plan, 'a.example', '/', 'GET', port)),
        ['allow', 'deny', 'deny'],
      )
    },
  ],
  [
    'an empty list denies',
    (world) => {
      for (const list of ['ports: []', 'methods: []', 'paths: []']) {
        assert.equal(
          effect(world.plan(`  network: [{ host: a.example, ${list} }]\n`), 'a.example'),
          'deny',
          list,
        )
      }
      assert.equal(effect(world.plan('  network: []\n'), 'a.example'), 'deny')
      assert.deepEqual(world.plan('  files: []\n').roots, [])
    },
  ],
  [
    '`paths` or `credential` with `inspect: false` is an error',
    (world) => {
      const credentials = '  credentials: [{ name: c, kind: header, header: x-key, source: "env:C" }]\n'
      for (const key of ['paths: ["/a"]', 'credential: c', 'methods: [GET]']) {
        const rule = (inspect: boolean) =>
          `  network: [{ host: a.example, ${key}, inspect: ${inspect} }]\n${credentials}`
        refuses(INVALID, /needs inspect: true/, () => world.plan(rule(false)))
        assert.equal(world.plan(rule(true)).network.length, 1)
      }
    },
  ],
  [
    'plain HTTP only if a port says so',
    (world) => {
      const plan = world.plan('  network: [{ host: a.example, ports: [443, 80/http] }]\n')
      const plain = (port: number) => effect(plan, 'a.example', '/', 'GET', port, false)
      assert.deepEqual([plain(80), plain(443), effect(plan, 'a.example')], ['allow', 'deny', 'allow'])
      assert.deepEqual(
        plan.network.map(({ id, ports, plain }) => [id, ports, plain]),
        [
          ['network[0]', [443], false],
          ['network[0]', [80], true],
        ],
      )
    },
  ],
  [
    'bare TCP passes to a pinned address, by a rule of its own, and no request does',
    (world) => {
      const at = (more: string) => `  network: [{ host: db.example, ports: [5432/tcp]${more} }]\n`
      const pin = ', connect: "127.0.0.1:6000"'
      const plan = world.plan(at(pin))
      const [rule] = plan.network
      assert.deepEqual([rule?.ports, rule?.raw, rule?.inspect, rule?.plain], [[5432], true, false, false])
      for (const tls of [true, false]) {
        const action = { kind: 'net.connect', host: 'db.example', port: 5432, tls } as const
        assert.equal(decide(action, plan, { label: 'public', stopped: null }).effect, 'allow')
        assert.equal(
          decide({ ...action, port: 443 }, plan, { label: 'public', stopped: null }).effect,
          'deny',
        )
        assert.equal(decide(action, plan, { label: 'regulated', stopped: null }).effect, 'deny')
        assert.equal(effect(plan, 'db.example', '/', 'GET', 5432, tls), 'deny')
      }
      refuses(INVALID, /needs connect/, () => world.plan(at('')))
      for (const [more, message] of [
        [', methods: [GET]', /methods: is of HTTP/],
        [', paths: ["/x"]', /paths: is of HTTP/],
        [', inspect: true', /nothing is read/],
      ] as const)
        refuses(INVALID, message, () => world.plan(at(pin + more)))
      refuses(INVALID, /stands alone/, () => world.plan(at(pin).replace('5432/tcp', '443, 5432/tcp')))
      refuses(INVALID, /must be inspected/, () => world.plan(at(pin).replace('db.example', 'api.openai.com')))
      refuses(INVALID, /above 65535/, () => world.plan(at(pin).replace('5432/', '65536/')))
    },
  ],
  [
    'model hosts must be inspected',
    (world) => {
      for (const host of [
        'api.anthropic.com',
        'API.OpenAI.com.',
        '"*.openai.com"',
        '"*.anthropic.com"',
        'bedrock-runtime.eu-west-1.amazonaws.com',
        '"*.amazonaws.com"',
        'x.openai.azure.com',
      ]) {
        refuses(INVALID, /must be inspected/, () =>
          world.plan(`  network: [{ host: ${host}, inspect: false }]\n`),
        )
      }
      assert.equal(
        world.plan('  network: [{ host: files.example, inspect: false }]\n').network[0]?.inspect,
        false,
      )
    },
  ],
  [
    'Rules may not overlap',
    (world) => {
      const pair = (a: string, b: string) =>
        world.plan(`  network:\n    - { host: ${a} }\n    - { host: ${b} }\n`)
      for (const [a, b] of [
        ['a.example', 'A.example.'],
        ['"*.x.example"', 'b.x.example'],
        ['b.c.x.example', '"*.x.example"'],
        ['"*.x.example"', '"*.y.x.example"'],
        ['a.example', '{}'],
      ] as const) {
        if (b === '{}') refuses(INVALID, /expected string/, () => pair(a, b))
        else refuses(INVALID, /:7:\d+ network\[1\]\.host: overlaps network\[0\]/, () => pair(a, b))
      }
      assert.equal(pair('"*.x.example"', 'x.example').network.length, 2)
      assert.equal(pair('a.example', 'b.example').network.length, 2)
      assert.equal(pair('a.example', 'a.example, ports: [8443]').network.length, 2)
      refuses(INVALID, /names port 80 twice/, () =>
        world.plan('  network: [{ host: a.example, ports: [80, 80/http] }]\n'),
      )
    },
  ],
  [
    '`connect` pins the address dialled',
    (world) => {
      const connect = (text: string) =>
        world.plan(`  network: [{ host: a.example, connect: "${text}" }]\n`).network[0]?.connect
      assert.deepEqual(connect('127.0.0.1:8443'), { address: '127.0.0.1', port: 8443 })
      assert.deepEqual(connect('[::1]:8443'), { address: '::1', port: 8443 })
      for (const bad of [
        'localhost:1',
        '127.1:1',
        '127.0.0.1',
        '127.0.0.1:0',
        '127.0.0.1:65536',
        '::1:80',
        '[fe80::1%lo]:1',
        '1.2.3.4:1@x',
      ]) {
        refuses(INVALID, /connect: is not ADDRESS:PORT/, () => connect(bad))
      }
    },
  ],
]

const REST: readonly Row[] = [
  [
    '`pass` of a secret-shaped name is refused',
    (world) => {
      const pass = (name: string) => world.plan(`  environment: { pass: [${name}] }\n`).environment.pass
      for (const name of [
        'ANTHROPIC_API_KEY',
        'GITHUB_TOKEN',
        'DB_PASSWORD',
        'AWS_SECRET_ACCESS_KEY',
        'SSH_AUTH_SOCK',
        'npm_config__auth',
        'DATABASE_URL',
        'PGPASSWORD',
        'NPM_TOKEN_RO',
        'MYAPP_PAT',
        'SENTRY_DSN',
      ]) {
        refuses(INVALID, /looks like a secret/, () => pass(name))
      }
      for (const name of [
        'PATH',
        'LD_PRELOAD',
        'HTTPS_PROXY',
        'https_proxy',
        'NODE_OPTIONS',
        'SSL_CERT_FILE',
        'AMBIT_HOME',
      ]) {
        refuses(INVALID, /is set by Ambit/, () => pass(name))
        refuses(INVALID, /is set by Ambit/, () => world.plan(`  environment: { set: { ${name}: "x" } }\n`))
      }
      for (const name of ['EDITOR', 'CI', 'COMPATIBILITY', 'KEYBOARD', 'MONKEY', 'AUTHOR'])
        assert.deepEqual(pass(name), [name])
    },
  ],
  [
    "a credential's own variable is never passed, whatever its name",
    (world) => {
      const spec = (pass: string) =>
        `  credentials: [{ name: c, kind: header, header: x-key, source: "env:OUTER", env: INNER }]\n  environment: { pass: [${pass}] }\n`
      for (const name of ['OUTER', 'INNER']) {
        refuses(INVALID, /belongs to credential c/, () => world.plan(spec(name)))
      }
      assert.deepEqual(world.plan(spec('OTHER')).environment.pass, ['OTHER'])
    },
  ],
  [
    'empty or malformed lists deny: nothing that is left out is granted',
    (world) => {
      const plan = world.compile(world.profile('probe', 'spec: {}\n'))
      assert.deepEqual(
        [plan.roots, plan.network, plan.credentials, plan.environment, plan.approvals],
        [[], [], [], { pass: [], set: {} }, []],
      )
      assert.deepEqual(plan.desktop, { clipboard: 'deny', display: 'deny', audio: 'deny' })
    },
  ],
]

for (const [name, rows] of [
  ['files', FILES],
  ['network', NETWORK],
  ['rest', REST],
] as const) {
  for (const [sentence, check] of rows) {
    test(`${name}: ${sentence}`, () => {
      using world = new World()
      check(world)
    })
  }
}
