/**
 * `ambit run --observe`, then the changes that its draft suggests, made by hand as a person would: the same run passes
 * and nothing is refused. The hosts are the real names; the lab answers for them.
 */
import assert from 'node:assert/strict'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { parse, stringify } from 'yaml'
import { once } from '../support/case.ts'
import { recordDns } from '../support/dns.ts'
import { claimAddress, labMissing } from '../support/lab.ts'
import { withoutPrograms } from '../support/programs.ts'
import { describe, Stage } from '../support/stage.ts'
import { type Answer, serveHttps } from '../support/upstream.ts'
import type { As } from '../support/users.ts'
import { makeBare, serveGit } from './git-server.ts'
import { registries } from './registries.ts'

const WEB = '93.184.216.34'
const scratch = mkdtempSync(join(tmpdir(), 'ambit-observe-'))
after(() => {
  rmSync(scratch, { recursive: true, force: true })
  setTimeout(() => process.exit(), 100).unref()
})

const world = once(async () => {
  const dns = await recordDns()
  claimAddress(WEB)
  const pages = registries(scratch)
  makeBare(join(scratch, 'git'), 'app.git')
  const git = serveGit(join(scratch, 'git'))
  const answer: Answer = (request, response) => {
    const host = request.headers.host ?? ''
    if (host === 'github.com') return git(request, response)
    const body = pages[host]?.[new URL(request.url, 'https://x').pathname]
    if (body === undefined) response.writeHead(404).end('{}')
    else
      response
        .writeHead(200, {
          'content-type': request.url.startsWith('/simple/') ? 'text/html' : 'application/json',
        })
        .end(body)
  }
  const hosts = ['github.com', ...Object.keys(pages)]
  for (const host of hosts) dns.zone.set(host, [WEB])
  return await serveHttps(hosts, { address: WEB, port: 443, answer })
})

/** The draft with every suggested rule moved into it, and the stand-in's CA, which no suggestion can know. */
function amend(draft: string, ca: string): any {
  const document = parse(draft)
  for (const [, yaml] of draft.matchAll(/^# {3}network:\n# {5}(- .*)$/gm)) {
    const [rule] = parse(yaml ?? '')
    document.spec.network = [...(document.spec.network ?? []), { ...rule, ca }]
  }
  return document
}

const shell = (script: string): string[] => ['/bin/bash', '-c', `set -e; ${script}`]

function observes(
  title: string,
  files: Readonly<Record<string, string>>,
  argv: readonly string[],
  { as = 'user', missing = null }: { as?: As; missing?: string | null } = {},
): void {
  test(`the draft of ${title} is what it needs`, {
    skip: labMissing ?? withoutPrograms('python3', 'git') ?? missing ?? false,
  }, async () => {
    const upstream = await world(null)
    const spec = {
      files: [
        { path: '${project}', access: 'review' },
        { path: '${workspace}', access: 'write' },
      ],
    }
    const stage = new Stage(as, { files, spec })
    const ca = join(stage.root, 'ca.pem')
    writeFileSync(ca, upstream.ca, { mode: 0o644 })
    const env = { RUSTUP_HOME: process.env.RUSTUP_HOME ?? join(process.env.HOME ?? '', '.rustup') }
    const first = await stage.session(argv, { args: ['--observe'], env })
    assert.notEqual(first.code, 0, 'it runs as strictly as without --observe')
    const draft = readFileSync(/draft profile: (\S+)/.exec(first.stderr)?.[1] ?? '', 'utf8')
    const amended = amend(draft, ca)
    const checked = join(stage.root, 'amended.yaml')
    writeFileSync(checked, stringify(amended), { mode: 0o644 })
    const check = await stage.ambit(['profile', 'check', checked])
    assert.equal(check.code, 0, describe(check))
    const second = await stage.session(argv, { spec: amended.spec, env })
    assert.equal(second.code, 0, `${draft}\n${describe(second)}`)
    assert.deepEqual(second.summary.refusals, [], draft)
  })
}

observes(
  'npm install',
  { 'package.json': '{"name":"app","version":"1.0.0","dependencies":{"tiny":"1.0.0"}}' },
  shell('npm install --no-audit --no-update-notifier --fetch-retries=0 && node -p "require(\'tiny\')"'),
)

observes('git clone', {}, shell('git clone -q https://github.com/app.git $AMBIT_WORKSPACE/app'))

observes(
  'pip install, which leads to a second host',
  {},
  shell(
    '/usr/bin/python3 -m pip install -q --retries 0 --disable-pip-version-check --target $AMBIT_WORKSPACE/p tiny',
  ),
)

const cargo = (process.env.PATH ?? '').split(':').some((dir) => existsSync(join(dir, 'cargo')))
observes(
  'cargo build',
  {
    'Cargo.toml':
      '[package]\nname = "app"\nversion = "0.1.0"\nedition = "2021"\n[dependencies]\ntiny = "1"\n',
    'src/main.rs': 'fn main() { println!("{}", tiny::word()) }\n',
  },
  ['cargo', 'build', '--quiet', '--config', 'net.retry=0'],
  // Its toolchain may lie in the home of whoever runs the tests.
  { as: process.getuid?.() === 0 ? 'root' : 'user', missing: cargo ? null : 'cargo is not installed' },
)
