/** Ordinary tools run inside unchanged: none is told of a proxy, none of a certificate. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { install, pythonRequests } from '../support/caches.ts'
import { claimAddress, labMissing } from '../support/lab.ts'
import { once } from '../support/case.ts'
import { recordDns } from '../support/dns.ts'
import { describe, Stage } from '../support/stage.ts'
import { type Answer, serveHttps } from '../support/upstream.ts'
import { type As, unavailable } from '../support/users.ts'

const PUBLIC = '93.184.216.34'
const HOSTS = ['files.test', 'git.test', 'registry.test']
const scratch = mkdtempSync(join(tmpdir(), 'ambit-e2e-'))
after(() => {
  rmSync(scratch, { recursive: true, force: true })
  setTimeout(() => process.exit(), 100).unref()
})

/** A repository in the form that git reads over plain HTTPS, and a registry with one package. */
const world = once(async () => {
  claimAddress(PUBLIC)
  const dns = await recordDns()
  for (const host of HOSTS) dns.zone.set(host, [PUBLIC])
  const repository = makeRepository()
  const registry = makePackage()
  const answer: Answer = (request, response) => {
    const path = decodeURIComponent(new URL(request.url, 'https://x').pathname)
    if (request.headers.host === 'git.test') return serveFile(join(repository, path), response)
    if (request.headers.host === 'registry.test') return registry(path, response)
    response
      .writeHead(200, { 'content-type': 'application/json' })
      .end(JSON.stringify({ path, agent: request.headers['user-agent'] }))
  }
  return { dns, server: await serveHttps(HOSTS, { address: PUBLIC, port: 443, answer }) }
})

type Response = Parameters<Answer>[1]

function serveFile(path: string, response: Response): void {
  if (!path.startsWith(scratch) || !existsSync(path)) response.writeHead(404).end()
  else response.writeHead(200).end(readFileSync(path))
}

function makeRepository(): string {
  const work = join(scratch, 'work')
  mkdirSync(work)
  const git = (...args: string[]): void =>
    void execFileSync('git', ['-c', 'user.name=t', '-c', 'user.email=t@t.test', ...args], { cwd: work })
  git('init', '--quiet', '.')
  writeFileSync(join(work, 'README'), 'cloned over HTTPS\n')
  git('add', 'README')
  git('commit', '--quiet', '-m', 'first')
  execFileSync('git', ['clone', '--quiet', '--bare', work, join(scratch, 'demo.git')])
  execFileSync('git', ['update-server-info'], { cwd: join(scratch, 'demo.git') })
  return scratch
}

function makePackage(): (path: string, response: Response) => void {
  const folder = join(scratch, 'package')
  mkdirSync(folder)
  writeFileSync(join(folder, 'package.json'), '{"name":"tiny-package","version":"1.0.0","main":"index.js"}')
  writeFileSync(join(folder, 'index.js'), 'module.exports = "from the registry"\n')
  execFileSync('tar', ['-czf', join(scratch, 'tiny.tgz'), '-C', scratch, 'package'])
  const tarball = readFileSync(join(scratch, 'tiny.tgz'))
  const integrity = `sha512-${createHash('sha512').update(tarball).digest('base64')}`
  const dist = { tarball: 'https://registry.test/tiny-package/-/tiny-package-1.0.0.tgz', integrity }
  const manifest = { name: 'tiny-package', version: '1.0.0', main: 'index.js', dist }
  return (path, response) => {
    if (path.endsWith('.tgz'))
      response.writeHead(200, { 'content-type': 'application/octet-stream' }).end(tarball)
    else if (path === '/tiny-package')
      response.writeHead(200, { 'content-type': 'application/json' }).end(
        JSON.stringify({
          name: 'tiny-package',
          'dist-tags': { latest: '1.0.0' },
          versions: { '1.0.0': manifest },
        }),
      )
    else response.writeHead(404).end('{}')
  }
}

async function makeStage(as: As): Promise<Stage> {
  const { server } = await world(null)
  const stage = new Stage(as, { files: { 'package.json': '{"name":"app","version":"1.0.0"}' } })
  const ca = join(stage.root, 'ca.pem')
  writeFileSync(ca, server.ca, { mode: 0o644 })
  stage.spec = {
    files: [
      { path: '${project}', access: 'read' },
      { path: '${workspace}', access: 'write' },
    ],
    network: HOSTS.map((host) => ({ host, ca })),
  }
  return stage
}

function tool(name: string, body: (stage: Stage) => Promise<void>): void {
  for (const as of ['user', 'root'] as const)
    test(`${name}, as ${as}`, { skip: labMissing ?? unavailable(as) ?? false }, async () =>
      body(await makeStage(as)),
    )
}

tool('curl fetches', async (stage) => {
  const ran = await stage.session(['curl', '-sS', '--fail', 'https://files.test/hello'])
  assert.equal(ran.code, 0, describe(ran))
  assert.equal(JSON.parse(ran.stdout).path, '/hello')
  const other = await stage.session(['curl', '-sS', '--fail', 'https://other.test/hello'])
  assert.notEqual(other.code, 0, 'a host without a rule')
})

tool('git clones over HTTPS', async (stage) => {
  const ran = await stage.session([
    'git',
    'clone',
    'https://git.test/demo.git',
    join(stage.workspace, 'demo'),
  ])
  assert.equal(ran.code, 0, describe(ran))
  assert.equal(readFileSync(join(stage.workspace, 'demo/README'), 'utf8'), 'cloned over HTTPS\n')
})

tool('npm installs', async (stage) => {
  const target = join(stage.workspace, 'app')
  const script = `mkdir -p ${target} && cd ${target} && npm install --registry=https://registry.test/ --no-audit --no-fund tiny-package && node -p 'require("tiny-package")'`
  const ran = await stage.session(['/bin/sh', '-c', script])
  assert.equal(ran.code, 0, describe(ran))
  assert.match(ran.stdout, /from the registry/)
})

tool('Python requests fetches', async (stage) => {
  const library = install(pythonRequests, join(stage.project, 'python'))
  stage.own()
  const script = `import requests; print(requests.get('https://files.test/python').json()['path'])`
  const ran = await stage.session(['/usr/bin/env', `PYTHONPATH=${library}`, '/usr/bin/python3', '-c', script])
  assert.equal(ran.code, 0, describe(ran))
  assert.match(ran.stdout, /^\/python$/m)
})

tool('Node fetches', async (stage) => {
  const ran = await stage.session([
    stage.product.node,
    '-e',
    `fetch('https://files.test/fetch').then((r) => r.text()).then(console.log)`,
  ])
  assert.equal(ran.code, 0, describe(ran))
  assert.equal(JSON.parse(ran.stdout).path, '/fetch')
})
