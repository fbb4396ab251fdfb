import {
  copyFileSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { makeDir } from '../lib/make-dir.ts'
import { CA_BUNDLE, CA_ONE } from './environment.ts'
import type { LaunchMount } from './launch-spec.ts'
import { javaTruststore } from './truststore.ts'

/** What of this machine every session sees; found once per session start, so that building a spec stays pure. */
export interface HostSystem {
  /** /usr, and /bin, /lib… as they are here. */
  readonly mounts: readonly LaunchMount[]
  /** Files and links of /etc, copied into the session's own. */
  readonly etcFiles: readonly string[]
  /** Directories of /etc, mounted over it. */
  readonly etcDirs: readonly string[]
  /** PEM of the machine's own roots. */
  readonly roots: string
  /** True where programs of the host may be Java's. */
  readonly java: boolean
  /** Truststores of JDKs outside /etc, to be covered by the session's. */
  readonly truststores: readonly string[]
}

/**
 * All that a session sees of /etc besides generated files. Never whole: /etc holds shadow, keys, tokens of package
 * managers (npmrc, pip.conf, apt), VPN and mail configuration. No `profile`: it would reset PATH in login shells.
 */
const ETC = [
  'alternatives', 'ld.so.cache', 'ld-musl-x86_64.path', 'ld-musl-aarch64.path', 'ssl/openssl.cnf', 'pki/tls/openssl.cnf',
  'crypto-policies', 'localtime', 'timezone', 'locale.conf', 'locale.alias', 'mime.types', 'magic', 'magic.mime',
  'protocols', 'services', 'gai.conf', 'host.conf', 'inputrc', 'terminfo', 'nanorc', 'shells', 'papersize',
  'os-release', 'debian_version', 'lsb-release', 'redhat-release', 'fedora-release', 'alpine-release', 'arch-release',
  'perl', 'python3', 'fonts', 'dotnet', 'texmf', 'ImageMagick-6', 'ImageMagick-7', 'libreoffice', 'maven',
] // biome-ignore format: a list of names
const ETC_PATTERN = /^(java-[\w.-]+|python3\.\d+|openjdk-[\d.]+)$/

const MERGED = ['/bin', '/sbin', '/lib', '/lib32', '/lib64', '/libx32']

const BUNDLES = [
  CA_BUNDLE,
  '/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem',
  '/etc/pki/tls/certs/ca-bundle.crt',
  '/etc/ssl/ca-bundle.pem',
  '/etc/ssl/cert.pem',
]

/** Where Debian's and Fedora's JDKs look for trusted roots; other names are links to the first. */
const TRUSTSTORE = '/etc/ssl/certs/java/cacerts'
const TRUSTSTORES = [TRUSTSTORE, '/etc/pki/java/cacerts', '/etc/pki/ca-trust/extracted/java/cacerts']

/** What of the host's system a session is shown: mounts, the listed parts of /etc, roots of trust. */
export function inspectHost(): HostSystem {
  const bundle = BUNDLES.find((path) => existsSync(path))
  const etc = shownOfEtc()
  const pathsOf = (kind: EtcEntry['kind']): string[] =>
    etc.filter((one) => one.kind === kind).map(({ path }) => path)
  return {
    mounts: [{ kind: 'bind', source: '/usr', target: '/usr', write: false }, ...MERGED.flatMap(mergedMount)],
    etcFiles: pathsOf('file'),
    etcDirs: pathsOf('directory'),
    roots: bundle ? readFileSync(bundle, 'utf8') : '',
    java: existsSync('/usr/lib/jvm') || TRUSTSTORES.some((path) => existsSync(path)),
    truststores: jdkTruststores(),
  }
}

interface EtcEntry {
  readonly path: string
  /** A link counts as a file, wherever it leads. */
  readonly kind: 'file' | 'directory'
}

function shownOfEtc(): EtcEntry[] {
  const patterned = readdirSync('/etc').filter((name) => ETC_PATTERN.test(name))
  return [...ETC, ...patterned].flatMap((name) => {
    const path = `/etc/${name}`
    const stat = lstatSync(path, { throwIfNoEntry: false })
    if (!stat || (stat.isSymbolicLink() && !existsSync(path))) return []
    return [{ path, kind: stat.isDirectory() ? 'directory' : 'file' }]
  })
}

function mergedMount(path: string): LaunchMount[] {
  const stat = lstatSync(path, { throwIfNoEntry: false })
  if (!stat) return []
  if (stat.isSymbolicLink()) return [{ kind: 'symlink', target: path, link: readlinkSync(path) }]
  return [{ kind: 'bind', source: path, target: path, write: false }]
}

/** JDKs with a truststore file of their own; a link leads to one of TRUSTSTORES. */
function jdkTruststores(): string[] {
  if (!existsSync('/usr/lib/jvm')) return []
  return readdirSync('/usr/lib/jvm', { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .flatMap((jdk) => ['lib', 'jre/lib'].map((lib) => `/usr/lib/jvm/${jdk.name}/${lib}/security/cacerts`))
    .filter((path) => lstatSync(path, { throwIfNoEntry: false })?.isFile())
}

interface Person {
  readonly name: string
  readonly uid: number
  readonly gid: number
  readonly home: string
  readonly shell: string
}

export interface EtcContent {
  readonly host: HostSystem
  readonly person: Person
  readonly hostname: string
  /** Certificate of the session's CA. */
  readonly caPem: string
  /** Further generated files by absolute path. */
  readonly extra: Readonly<Record<string, string>>
}

/** Makes what of the session's /etc is mounted or mounted over, so that it can be filled while the cell is built. */
export function makeEtc(dir: string, host: HostSystem): void {
  withPlainUmask(() => {
    mkdirSync(dir)
    for (const path of host.etcDirs) makeDir(placesIn(dir)(path), 0o777)
    if (host.truststores.length > 0) writeFileSync(placesIn(dir)(TRUSTSTORE), '')
  })
}

/** Writes the session's /etc into `dir`: one mount instead of thirty, which would cost 6 ms at every start. */
export function writeEtc(dir: string, content: EtcContent): void {
  withPlainUmask(() => {
    const placeOf = placesIn(dir)
    for (const path of content.host.etcFiles) copyEntry(path, placeOf(path))
    writeGenerated(placeOf, content)
  })
}

/** Root's agent reads these under another uid; the caller's umask may forbid that. */
function withPlainUmask(work: () => void): void {
  const umask = process.umask(0o022)
  try {
    work()
  } finally {
    process.umask(umask)
  }
}

function writeGenerated(placeOf: PlaceOf, { host, person, hostname, caPem, extra }: EtcContent): void {
  const files = { ...extra, ...accountsAndNames(person, hostname) }
  for (const [path, text] of Object.entries(files)) writeFileSync(placeOf(path), text)
  writeFileSync(placeOf(CA_BUNDLE), `${host.roots.trimEnd()}\n${caPem.trimEnd()}\n`)
  writeFileSync(placeOf(CA_ONE), caPem)
  for (const path of BUNDLES) if (path !== CA_BUNDLE) symlinkSync(CA_BUNDLE, placeOf(path))
  symlinkSync('/proc/self/mounts', placeOf('/etc/mtab'))
  if (!host.java) return
  writeFileSync(placeOf(TRUSTSTORE), javaTruststore([host.roots, caPem], new Date()))
  for (const path of TRUSTSTORES) if (path !== TRUSTSTORE) symlinkSync(TRUSTSTORE, placeOf(path))
}

/** Where a path of /etc lies in the session's own; its directory is there when this returns. */
type PlaceOf = (path: string) => string

function placesIn(dir: string): PlaceOf {
  const made = new Set<string>()
  return (path) => {
    const place = join(dir, path.slice('/etc/'.length))
    const parent = dirname(place)
    if (!made.has(parent)) makeDir(parent, 0o777)
    made.add(parent)
    return place
  }
}

/** Links keep being links (localtime, os-release) where they lead to what is visible. */
function copyEntry(from: string, to: string): void {
  const link = lstatSync(from).isSymbolicLink() ? readlinkSync(from) : ''
  if (/^(\/usr\/|\.\.\/usr\/)/.test(link)) symlinkSync(link, to)
  else copyFileSync(from, to)
}

/** Mounts of the directory that `writeEtc` filled. */
export function etcMounts(dir: string, host: HostSystem): LaunchMount[] {
  const bind = (source: string, target: string): LaunchMount => ({
    kind: 'bind',
    source,
    target,
    write: false,
  })
  return [
    bind(dir, '/etc'),
    ...host.etcDirs.map((path) => bind(path, path)),
    ...host.truststores.map((path) => bind(join(dir, TRUSTSTORE.slice('/etc/'.length)), path)),
  ]
}

function accountsAndNames(person: Person, hostname: string): Record<string, string> {
  return {
    '/etc/passwd': [
      'root:x:0:0:root:/root:/usr/sbin/nologin',
      `${person.name}:x:${person.uid}:${person.gid}::${person.home}:${person.shell}`,
      'nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin',
      '',
    ].join('\n'),
    '/etc/group': `root:x:0:\n${person.name}:x:${person.gid}:\nnogroup:x:65534:\n`,
    '/etc/hosts': `127.0.0.1 localhost ${hostname}\n::1 localhost\n`,
    '/etc/hostname': `${hostname}\n`,
    '/etc/nsswitch.conf': [
      'passwd: files',
      'group: files',
      'hosts: files dns',
      'networks: files',
      'protocols: files',
      'services: files',
      '',
    ].join('\n'),
    // The namespace redirects every query to the gate; the address only has to be routable there.
    '/etc/resolv.conf': 'nameserver 21.0.0.1\noptions timeout:3 attempts:1\n',
  }
}
