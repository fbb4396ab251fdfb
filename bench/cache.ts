/**
 * Peers live in a cache outside the repository: npm packages, Debian packages unpacked without root, the Go load
 * program. Nothing of theirs is committed.
 */
import { makeDir } from '../src/lib/make-dir.ts'
import { execFile } from 'node:child_process'
import { existsSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { delimiter, join } from 'node:path'
import { promisify } from 'node:util'

export const CACHE = join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'ambit-bench')

/** Versions measured; a newer one is a deliberate change. */
export const NPM_PEERS = {
  '@anthropic-ai/sandbox-runtime': '0.0.83',
  '@cedar-policy/cedar-wasm': '4.13.0',
} as const

/** Runs a program to its end; rejects with the end of its stderr. */
export async function sh(program: string, args: readonly string[], cwd = '/'): Promise<string> {
  try {
    const { stdout } = await promisify(execFile)(program, [...args], { cwd, maxBuffer: 1 << 26 })
    return stdout
  } catch (error) {
    const { stderr, message } = error as { stderr?: string; message: string }
    throw new Error(`${program}: ${stderr?.trim().split('\n').at(-1) || message}`, { cause: error })
  }
}

const installing = new Map<string, Promise<string>>()

/** Directory of an npm peer, installed at its pinned version; once, however many ask. */
export function npmPeer(name: keyof typeof NPM_PEERS): Promise<string> {
  const running = installing.get(name) ?? installNpm(name)
  installing.set(name, running)
  return running
}

async function installNpm(name: keyof typeof NPM_PEERS): Promise<string> {
  const root = join(CACHE, `npm-${NPM_PEERS[name]}-${name.replaceAll(/\W+/g, '-')}`)
  const dir = join(root, 'node_modules', name)
  if (!existsSync(dir)) {
    makeDir(root, 0o777)
    writeFileSync(join(root, 'package.json'), '{"private":true}')
    const spec = `${name}@${NPM_PEERS[name]}`
    await sh('npm', ['install', '--no-audit', '--no-fund', '--ignore-scripts', '--save-exact', spec], root)
  }
  return dir
}

/** Path of `program`: the system's, or from the Debian package unpacked into the cache (no root needed). */
export async function debianProgram(program: string, pkg: string): Promise<string> {
  const dirs = [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/usr/local/sbin']
  const unpacked = join(CACHE, `deb-${pkg}`)
  const own = ['usr/bin', 'usr/sbin', 'bin'].map((dir) => join(unpacked, dir))
  const find = (): string | undefined =>
    [...dirs, ...own].map((dir) => join(dir, program)).find((path) => existsSync(path))
  const found = find()
  if (found) return found
  await unpackDebian(pkg, unpacked)
  const path = find()
  if (!path) throw new Error(`Debian package ${pkg} holds no ${program}`)
  return path
}

/** What a program unpacked by `debianProgram` needs to find its libraries. */
export function debianLibraries(pkg: string): string {
  return ['usr/lib', 'lib'].map((dir) => join(CACHE, `deb-${pkg}`, dir, 'x86_64-linux-gnu')).join(delimiter)
}

async function unpackDebian(pkg: string, target: string): Promise<void> {
  const debs = join(CACHE, 'debs', pkg)
  makeDir(join(debs, 'partial'), 0o777)
  const options = ['-o', 'Debug::NoLocking=1', '-o', `Dir::Cache::archives=${debs}`]
  await sh('apt-get', [...options, '--download-only', '--no-install-recommends', '-y', 'install', pkg])
  const fresh = `${target}.new`
  rmSync(fresh, { recursive: true, force: true })
  makeDir(fresh, 0o777)
  for (const deb of readdirSync(debs).filter((name) => name.endsWith('.deb')))
    await sh('dpkg-deb', ['-x', join(debs, deb), fresh])
  renameSync(fresh, target)
}

/** Unpacked source of a Debian package, by apt with a source list of our own. */
export async function debianSource(pkg: string): Promise<string> {
  const root = join(CACHE, `src-${pkg}`)
  const unpacked = (): string | undefined =>
    existsSync(root)
      ? readdirSync(root).find((name) => name.startsWith(`${pkg.replace(/\d+$/, '')}-`))
      : undefined
  if (!unpacked()) {
    for (const dir of ['lists/partial', 'cache/archives/partial']) makeDir(join(root, dir), 0o777)
    const key = '/usr/share/keyrings/debian-archive-keyring.gpg'
    const release = (await sh('sh', ['-c', '. /etc/os-release; echo "$ID $VERSION_CODENAME"']))
      .trim()
      .split(' ')
    if (release[0] !== 'debian') throw new Error(`needs Debian's source packages; this is ${release[0]}`)
    writeFileSync(
      join(root, 'sources.list'),
      `deb-src [signed-by=${key}] http://deb.debian.org/debian ${release[1]} main\n`,
    )
    const options = [
      ['Dir::Etc::sourcelist', join(root, 'sources.list')],
      ['Dir::Etc::sourceparts', '/dev/null'],
      ['Dir::State::lists', join(root, 'lists')],
      ['Dir::Cache', join(root, 'cache')],
      ['Debug::NoLocking', '1'],
    ].flatMap(([key, value]) => ['-o', `${key}=${value}`])
    await sh('apt-get', [...options, 'update'], root)
    await sh('apt-get', [...options, 'source', '--download-only', pkg], root)
    const tar = readdirSync(root).find((name) => /\.orig\.tar\.\w+$/.test(name))
    if (!tar) throw new Error(`no source archive of ${pkg}`)
    await sh('tar', ['-xf', tar], root)
  }
  return join(root, unpacked() ?? '.')
}

/** The load program (bench/load), built when its source is newer. */
export async function loadProgram(): Promise<string> {
  const source = join(import.meta.dirname, 'load')
  const out = join(CACHE, 'load')
  makeDir(CACHE, 0o777)
  // go's own build cache makes this cheap when nothing changed.
  await promisify(execFile)('go', ['build', '-trimpath', '-buildvcs=false', '-o', out, '.'], {
    cwd: source,
    env: { ...process.env, CGO_ENABLED: '0', GOFLAGS: '-mod=mod', GOTOOLCHAIN: 'local' },
  })
  return out
}
