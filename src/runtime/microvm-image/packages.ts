/**
 * The image's packages: Debian's, by the mirror of this machine's own apt, which checks the archive's signatures.
 * They are unpacked, not installed: no maintainer script runs, so it needs no root and no namespace, and the same
 * packages make the same tree.
 */
import { readdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { makeDir } from '../../lib/make-dir.ts'
import { AmbitError } from '../../lib/errors.ts'
import { findTool } from '../tools.ts'
import { runTool } from './tool.ts'

/** Essential ones that an unpacked tree needs, and what agents expect to find. */
export const PACKAGES: readonly string[] = [
  'base-files', 'base-passwd', 'bash', 'bzip2', 'ca-certificates', 'coreutils', 'curl', 'dash', 'debianutils', 'diffutils', 'file',
  'findutils', 'gawk', 'git', 'grep', 'gzip', 'hostname', 'jq', 'less', 'libc-bin', 'make', 'ncurses-base', 'ncurses-bin',
  'netbase', 'openssh-client', 'patch', 'procps', 'python3', 'ripgrep', 'sed', 'tar', 'tzdata', 'unzip', 'util-linux',
  'xz-utils', 'zip', 'zstd',
] // biome-ignore format: a list of names

const KERNEL = 'linux-image-cloud-amd64'
const KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg'
/** Left out: nobody in a session reads them, and they are a third of the tree. */
const OMITTED = [
  'usr/share/doc',
  'usr/share/man',
  'usr/share/info',
  'usr/share/locale',
  'usr/share/lintian',
  'boot',
]
const MERGED = ['bin', 'sbin', 'lib', 'lib64']

export interface Package {
  readonly name: string
  readonly version: string
  readonly path: string
}

/** Fetches the packages and their dependencies into `dir`, which keeps them. The kernel's comes apart. */
export async function fetchPackages(dir: string): Promise<{ root: Package[]; kernel: Package }> {
  const apt = await privateApt(dir)
  await apt('apt-get', ['update', '-qq'])
  await apt('apt-get', ['install', '-qq', '-y', '--download-only', '--no-install-recommends', ...PACKAGES])
  const root = packagesIn(join(dir, 'cache/archives'))
  const depends = await apt('apt-cache', ['depends', KERNEL])
  const name = /Depends: (linux-image-\S+)/.exec(depends)?.[1]
  if (name === undefined) throw failed('the archive names no kernel')
  const place = join(dir, 'kernel')
  makeDir(place, 0o777)
  await apt('apt-get', ['download', '-qq', name], place)
  const kernel = packagesIn(place).findLast((found) => found.name === name)
  if (!kernel) throw failed('the kernel package did not arrive')
  return { root: await newestOf(root, apt), kernel }
}

type Apt = (tool: 'apt-get' | 'apt-cache', args: readonly string[], cwd?: string) => Promise<string>

/** apt with a state of its own in `dir`, an empty list of installed packages, and only Debian's archives. */
async function privateApt(dir: string): Promise<Apt> {
  for (const place of ['state/lists/partial', 'cache/archives/partial', 'etc'])
    makeDir(join(dir, place), 0o777)
  writeFileSync(join(dir, 'state/status'), '')
  const list = join(dir, 'etc/sources.list')
  writeFileSync(list, (await debianSources(dir)).join(''))
  return aptWith({
    ...stateIn(dir),
    'Dir::Etc::sourcelist': list,
    'Dir::Etc::sourceparts': '/dev/null',
    'Dir::Etc::preferencesparts': '/dev/null',
    'APT::Architecture': 'amd64',
    'Acquire::Retries': '3',
    // Else apt takes an archive that does not answer for one without packages.
    'APT::Update::Error-Mode': 'any',
  })
}

const stateIn = (dir: string): Record<string, string> => ({
  'Dir::State': join(dir, 'state'),
  'Dir::State::status': join(dir, 'state/status'),
  'Dir::Cache': join(dir, 'cache'),
  'APT::Sandbox::User': '',
  'Debug::NoLocking': 'true',
  'Acquire::Languages': 'none',
})

function aptWith(settings: Readonly<Record<string, string>>): Apt {
  const options = Object.entries(settings).flatMap(([name, value]) => ['-o', `${name}=${value}`])
  return (tool, args, cwd) => runTool(findTool(tool, 'apt'), [...options, ...args], cwd)
}

/**
 * The Debian archives that this machine's apt names. Whose an archive is stands in its lists; a machine that never
 * fetched any (a fresh container) has them fetched into `dir`.
 */
async function debianSources(dir: string): Promise<string[]> {
  let targets = await targetsOf(aptWith({}))
  if (targets.length === 0) {
    const apt = aptWith(stateIn(dir))
    await apt('apt-get', ['update', '-qq'])
    targets = await targetsOf(apt)
  }
  if (targets.length === 0)
    throw failed(
      "this machine's apt has no list of packages, and no archive that it names answers",
      'run apt-get update as root and see what it says',
    )
  const debian = targets.filter(({ origin }) => origin === 'Debian')
  if (debian.length === 0) throw failed("this machine's apt names no Debian archive")
  return [...new Set(debian.map(({ line }) => line))]
}

async function targetsOf(apt: Apt): Promise<{ origin: string; line: string }[]> {
  const format = '$(CREATED_BY)|$(ORIGIN)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)'
  const said = await apt('apt-get', ['indextargets', '--format', format])
  return said
    .split('\n')
    .map((text) => text.split('|'))
    .filter(([kind]) => kind === 'Packages')
    .map(([, origin = '', uri, release, component]) => ({
      origin,
      line: `deb [signed-by=${KEYRING}] ${uri} ${release} ${component}\n`,
    }))
}

/** `NAME_VERSION_ARCH.deb`; apt writes a colon as %3a. */
function packagesIn(dir: string): Package[] {
  return readdirSync(dir)
    .filter((file) => file.endsWith('.deb'))
    .sort()
    .map((file) => {
      const [name = '', version = ''] = file.split('_')
      return { name, version: decodeURIComponent(version), path: join(dir, file) }
    })
}

/** The directory keeps what earlier builds fetched: only what this one resolved counts. */
async function newestOf(found: readonly Package[], apt: Apt): Promise<Package[]> {
  const plan = await apt('apt-get', ['install', '-s', '--no-install-recommends', ...PACKAGES])
  const versions = new Map(
    [...plan.matchAll(/^Inst (\S+) \((\S+) /gm)].map(([, name = '', version = '']) => [name, version]),
  )
  return found.filter(({ name, version }) => versions.get(name) === version)
}

/** Unpacks `packages` into the empty directory `tree`. */
export async function unpack(packages: readonly Package[], tree: string): Promise<void> {
  const [deb, tar] = [findTool('dpkg-deb', 'dpkg'), findTool('tar', 'tar')]
  // /bin and the like are links into /usr, as every Debian since bookworm has them.
  for (const name of MERGED) {
    makeDir(join(tree, 'usr', name), 0o777)
    symlinkSync(`usr/${name}`, join(tree, name))
  }
  const options = ['-xp', '--no-same-owner', '--keep-directory-symlink']
  const omitted = OMITTED.map((path) => `--exclude=./${path}`)
  const script = 'umask 022; deb=$1; file=$2; shift 2; "$deb" --fsys-tarfile "$file" | "$@"'
  for (const { path } of packages)
    await runTool('/bin/sh', ['-euc', script, 'unpack', deb, path, tar, ...options, ...omitted], tree)
}

const failed = (why: string, remedy = 'it is built from Debian packages, on Debian'): AmbitError =>
  new AmbitError('ERR_RUNTIME_FAILED', 'building the image', why, remedy)
