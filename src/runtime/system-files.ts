import { existsSync, lstatSync, readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs'
import { CA_BUNDLE, CA_ONE } from './environment.ts'
import type { LaunchMount } from './launch-spec.ts'

/** What of this machine every session sees; found once per session start, so that building a spec stays pure. */
export interface HostSystem {
  /** /usr, and /bin, /lib… as they are here. */
  readonly mounts: readonly LaunchMount[]
  /** Entries of /etc from the list below that exist. */
  readonly etc: readonly string[]
  /** PEM of the machine's own roots. */
  readonly roots: string
  /** Java truststores to be covered by the session's. */
  readonly truststores: readonly string[]
}

/**
 * All that a session sees of /etc besides generated files. Never whole: /etc holds shadow, keys, tokens of package
 * managers (npmrc, pip.conf, apt), VPN and mail configuration. No `profile`: it would reset PATH in login shells.
 */
const ETC = [
  'alternatives', 'ld.so.cache', 'ld.so.conf', 'ld.so.conf.d', 'ld-musl-x86_64.path', 'ld-musl-aarch64.path',
  'ssl/openssl.cnf', 'pki/tls/openssl.cnf', 'crypto-policies', 'localtime', 'timezone', 'locale.conf', 'locale.alias',
  'mime.types', 'magic', 'magic.mime', 'protocols', 'services', 'gai.conf', 'host.conf', 'inputrc', 'terminfo', 'nanorc',
  'os-release', 'debian_version', 'lsb-release', 'redhat-release', 'fedora-release', 'alpine-release', 'arch-release',
  'perl', 'python3', 'fonts', 'dotnet', 'texmf', 'ImageMagick-6', 'ImageMagick-7', 'libreoffice', 'maven', 'papersize', 'shells',
] // biome-ignore format: a list of names
const ETC_PATTERN = /^(java-[\w.-]+|python[\d.]+|openjdk-[\d.]+)$/

const MERGED = ['/bin', '/sbin', '/lib', '/lib32', '/lib64', '/libx32']

const HOST_BUNDLES = [
  '/etc/ssl/certs/ca-certificates.crt',
  '/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem',
  '/etc/pki/tls/certs/ca-bundle.crt',
  '/etc/ssl/ca-bundle.pem',
  '/etc/ssl/cert.pem',
]

/** Other names by which programs know the system bundle. */
const BUNDLE_ALIASES = HOST_BUNDLES.filter((path) => path !== CA_BUNDLE)

/** Where Debian, Fedora and the JDKs of /usr/lib/jvm look for trusted roots. */
const TRUSTSTORES = [
  '/etc/ssl/certs/java/cacerts',
  '/etc/pki/java/cacerts',
  '/etc/pki/ca-trust/extracted/java/cacerts',
]

export function inspectHost(): HostSystem {
  const bundle = HOST_BUNDLES.find((path) => existsSync(path))
  return {
    mounts: [{ kind: 'bind', source: '/usr', target: '/usr', write: false }, ...MERGED.flatMap(mergedMount)],
    etc: [...ETC, ...readdirSync('/etc').filter((name) => ETC_PATTERN.test(name))].filter((name) =>
      existsSync(`/etc/${name}`),
    ),
    roots: bundle ? readFileSync(bundle, 'utf8') : '',
    truststores: [...TRUSTSTORES, ...jdkTruststores()].filter((path) => existsSync(path)),
  }
}

function mergedMount(path: string): LaunchMount[] {
  const stat = lstatSync(path, { throwIfNoEntry: false })
  if (!stat) return []
  if (stat.isSymbolicLink()) return [{ kind: 'symlink', target: path, link: readlinkSync(path) }]
  return [{ kind: 'bind', source: path, target: path, write: false }]
}

/** JDKs with a truststore of their own; a link leads to one of TRUSTSTORES. */
function jdkTruststores(): string[] {
  if (!existsSync('/usr/lib/jvm')) return []
  return readdirSync('/usr/lib/jvm')
    .flatMap((jdk) =>
      ['lib/security/cacerts', 'jre/lib/security/cacerts'].map((place) => `/usr/lib/jvm/${jdk}/${place}`),
    )
    .filter(
      (path) => !path.includes('/default-java/') && lstatSync(path, { throwIfNoEntry: false })?.isFile(),
    )
    .filter((path) => !lstatSync(path.split('/').slice(0, 5).join('/')).isSymbolicLink())
}

export interface Person {
  readonly name: string
  readonly uid: number
  readonly gid: number
  readonly home: string
  readonly shell: string
}

/** /etc: the listed entries of the host, and what is generated for this session. */
export function etcMounts(
  host: HostSystem,
  person: Person,
  hostname: string,
  caPem: string,
  truststore: string | null,
): LaunchMount[] {
  return [
    { kind: 'dir', target: '/etc', mode: 0o755 },
    ...host.etc.map((name): LaunchMount => etcEntry(`/etc/${name}`)),
    ...Object.entries(generated(host, person, hostname, caPem)).map(
      ([target, content]): LaunchMount => ({ kind: 'file', target, content, mode: 0o444 }),
    ),
    ...BUNDLE_ALIASES.map((target): LaunchMount => ({ kind: 'symlink', target, link: CA_BUNDLE })),
    { kind: 'symlink', target: '/etc/mtab', link: '/proc/self/mounts' },
    ...(truststore
      ? host.truststores.map(
          (target): LaunchMount => ({ kind: 'bind', source: truststore, target, write: false }),
        )
      : []),
  ]
}

/** Links keep being links (localtime, os-release): what they lead to is under /usr. */
function etcEntry(path: string): LaunchMount {
  if (lstatSync(path).isSymbolicLink()) {
    const link = readlinkSync(path)
    if (/^(\/usr\/|\.\.\/usr\/)/.test(link)) return { kind: 'symlink', target: path, link }
  }
  return { kind: 'bind', source: path, target: path, write: false }
}

function generated(
  host: HostSystem,
  person: Person,
  hostname: string,
  caPem: string,
): Record<string, string> {
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
    '/etc/nsswitch.conf':
      'passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\nprotocols: files\nservices: files\nethers: files\nrpc: files\n',
    // The namespace redirects every query to the gate; the address only has to be routable there.
    '/etc/resolv.conf': 'nameserver 21.0.0.1\noptions timeout:3 attempts:1\n',
    [CA_BUNDLE]: `${host.roots.trimEnd()}\n${caPem.trimEnd()}\n`,
    [CA_ONE]: caPem,
  }
}

/** True when a directory is there; the caller's own check before it is shown. */
export const isDirectory = (path: string): boolean =>
  statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false
