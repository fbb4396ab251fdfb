/** Stand-ins for the package registries, each with one package, in the forms that their tools read. */
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'

/** Body of a path of a host; null: not there. */
export type Pages = Readonly<Record<string, Buffer | string>>

const sha = (bytes: Buffer, algorithm: string, encoding: 'hex' | 'base64'): string =>
  createHash(algorithm).update(bytes).digest(encoding)

function put(dir: string, files: Readonly<Record<string, string>>): void {
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(dirname(join(dir, name)), { recursive: true })
    writeFileSync(join(dir, name), text)
  }
}

function tarball(dir: string, folder: string): Buffer {
  execFileSync('tar', ['-czf', join(dir, 'out.tgz'), '-C', dir, folder])
  return readFileSync(join(dir, 'out.tgz'))
}

/** Members in order, as wheels and Go's modules want them. */
function zip(dir: string, files: Readonly<Record<string, string>>): Buffer {
  const script =
    'import json,sys,zipfile\nz=zipfile.ZipFile(sys.argv[1],"w")\nfor n,t in json.load(sys.stdin).items(): z.writestr(n,t)\nz.close()'
  const out = join(dir, 'out.zip')
  execFileSync('/usr/bin/python3', ['-c', script, out], { input: JSON.stringify(files) })
  return readFileSync(out)
}

/** `host` → its pages. Scratch files go below `dir`. */
export function registries(dir: string): Readonly<Record<string, Pages>> {
  for (const name of ['npm', 'crates', 'pypi', 'go']) mkdirSync(join(dir, name), { recursive: true })
  return {
    ...npm(join(dir, 'npm')),
    ...crates(join(dir, 'crates')),
    ...pypi(join(dir, 'pypi')),
    'proxy.golang.org': goProxy(join(dir, 'go')),
    'repo.maven.apache.org': maven(),
  }
}

function npm(dir: string): Readonly<Record<string, Pages>> {
  const pages: Record<string, Buffer | string> = {}
  for (const [name, needs] of [
    ['tiny', { tinier: '1.0.0' }],
    ['tinier', {}],
  ] as const) {
    const manifest = { name, version: '1.0.0', main: 'index.js', dependencies: needs }
    const body =
      name === 'tiny' ? 'module.exports = require("tinier")' : 'module.exports = "from the registry"'
    put(join(dir, name), { 'package/package.json': JSON.stringify(manifest), 'package/index.js': body })
    const bytes = tarball(join(dir, name), 'package')
    const file = `/${name}/-/${name}-1.0.0.tgz`
    const dist = {
      tarball: `https://registry.npmjs.org${file}`,
      integrity: `sha512-${sha(bytes, 'sha512', 'base64')}`,
    }
    const versions = { '1.0.0': { ...manifest, dist } }
    pages[`/${name}`] = JSON.stringify({ name, 'dist-tags': { latest: '1.0.0' }, versions })
    pages[file] = bytes
  }
  return { 'registry.npmjs.org': pages }
}

/** https://doc.rust-lang.org/cargo/reference/registry-index.html, sparse protocol */
function crates(dir: string): Readonly<Record<string, Pages>> {
  const manifest = '[package]\nname = "tiny"\nversion = "1.0.0"\nedition = "2021"\n'
  put(join(dir, 'tiny-1.0.0'), {
    'Cargo.toml': manifest,
    'src/lib.rs': 'pub fn word() -> &\'static str { "from the registry" }\n',
  })
  const bytes = tarball(dir, 'tiny-1.0.0')
  const entry = {
    name: 'tiny',
    vers: '1.0.0',
    deps: [],
    cksum: sha(bytes, 'sha256', 'hex'),
    features: {},
    yanked: false,
  }
  return {
    'index.crates.io': {
      '/config.json': '{"dl":"https://static.crates.io/crates"}',
      '/ti/ny/tiny': `${JSON.stringify(entry)}\n`,
    },
    'static.crates.io': { '/crates/tiny/1.0.0/download': bytes },
  }
}

/** https://packaging.python.org/en/latest/specifications/simple-repository-api/ */
function pypi(dir: string): Readonly<Record<string, Pages>> {
  const info = 'tiny-1.0.dist-info'
  const wheel = zip(dir, {
    'tiny.py': 'word = "from the registry"\n',
    [`${info}/METADATA`]: 'Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n',
    [`${info}/WHEEL`]: 'Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n',
    [`${info}/RECORD`]: `tiny.py,,\n${info}/METADATA,,\n${info}/WHEEL,,\n${info}/RECORD,,\n`,
  })
  const file = '/packages/tiny-1.0-py3-none-any.whl'
  const link = `https://files.pythonhosted.org${file}#sha256=${sha(wheel, 'sha256', 'hex')}`
  return {
    'pypi.org': {
      '/simple/tiny/': `<!DOCTYPE html><html><body><a href="${link}">tiny-1.0-py3-none-any.whl</a></body></html>`,
    },
    'files.pythonhosted.org': { [file]: wheel },
  }
}

/** https://go.dev/ref/mod#goproxy-protocol */
function goProxy(dir: string): Pages {
  const at = '/example.test/tiny/@v'
  const mod = 'module example.test/tiny\n\ngo 1.20\n'
  const info = '{"Version":"v1.0.0","Time":"2024-01-01T00:00:00Z"}'
  return {
    [`${at}/list`]: 'v1.0.0\n',
    [`${at}/v1.0.0.info`]: info,
    [`${at}/v1.0.0.mod`]: mod,
    [`${at}/v1.0.0.zip`]: zip(dir, {
      'example.test/tiny@v1.0.0/go.mod': mod,
      'example.test/tiny@v1.0.0/tiny.go':
        'package tiny\n\nfunc Word() string { return "from the registry" }\n',
    }),
    '/example.test/tiny/@latest': info,
  }
}

/** A parent POM is what every build asks for first, before any plugin. */
function maven(): Pages {
  const pom = Buffer.from(
    '<project><modelVersion>4.0.0</modelVersion><groupId>test.tiny</groupId><artifactId>parent</artifactId><version>1.0</version><packaging>pom</packaging><name>from the registry</name></project>',
  )
  const path = '/maven2/test/tiny/parent/1.0/parent-1.0.pom'
  return { [path]: pom, [`${path}.sha1`]: sha(pom, 'sha1', 'hex') }
}
