import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { X509Certificate } from 'node:crypto'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { native } from '../../src/lib/native.ts'
import { etcMounts, inspectHost, makeEtc, writeEtc } from '../../src/runtime/system-files.ts'
import { javaTruststore } from '../../src/runtime/truststore.ts'

const dir = mkdtempSync(join(tmpdir(), 'ambit-etc-'))
const etc = join(dir, 'etc')
const host = inspectHost()
const ca = native().createCa('Ambit test', 1_700_000_000, 2_000_000_000)
before(() => {
  const umask = process.umask(0o077)
  makeEtc(etc, host)
  writeEtc(etc, {
    host,
    person: { name: 'ada', uid: 1000, gid: 1000, home: '/home/ada', shell: '/bin/sh' },
    hostname: 'ambit',
    caPem: ca.cert,
    extra: { '/etc/codex/managed_config.toml': 'x = 1\n' },
  })
  process.umask(umask)
})
after(() => rmSync(dir, { recursive: true, force: true }))

const read = (name: string): string => readFileSync(join(etc, name), 'utf8')

test('/etc has the agent, root and nobody as accounts, and no password or host secret', () => {
  assert.deepEqual(
    read('passwd')
      .trim()
      .split('\n')
      .map((line) => line.split(':')[0]),
    ['root', 'ada', 'nobody'],
  )
  for (const name of [
    'shadow',
    'gshadow',
    'sudoers',
    'ssh',
    'ssl/private',
    'machine-id',
    'npmrc',
    'pip.conf',
    'gitconfig',
    'environment',
    'profile',
    'apt',
    'krb5.keytab',
    'docker',
  ]) {
    assert.ok(!existsSync(join(etc, name)), name)
  }
  const shown = etcMounts(etc, host).map((mount) => mount.target)
  for (const path of ['/etc/ssl', '/etc/ssh', '/etc/security', '/etc/pam.d'])
    assert.ok(!shown.includes(path), path)
})

test('names resolve through the gate only', () => {
  assert.match(read('resolv.conf'), /^nameserver 21\.0\.0\.1\n/)
  assert.match(read('nsswitch.conf'), /^hosts: files dns$/m)
  assert.doesNotMatch(read('hosts'), new RegExp(readFileSync('/proc/sys/kernel/hostname', 'utf8').trim()))
})

test("the system bundle holds the host's roots and the session's; the small file holds the session's alone", () => {
  const count = (text: string): number => text.match(/BEGIN CERTIFICATE/g)?.length ?? 0
  assert.equal(count(read('ssl/certs/ca-certificates.crt')), count(host.roots) + 1)
  assert.ok(read('ssl/certs/ca-certificates.crt').includes(ca.cert.trim()))
  assert.equal(read('ssl/ambit-session-ca.pem'), ca.cert)
  assert.doesNotMatch(read('ssl/certs/ca-certificates.crt'), /PRIVATE/)
})

test("files that the agent's uid must read are readable whatever the caller's umask", () => {
  for (const name of [
    '',
    'ssl',
    'ssl/certs',
    'passwd',
    'ssl/certs/ca-certificates.crt',
    'codex',
    'codex/managed_config.toml',
  ]) {
    assert.equal(statSync(join(etc, name)).mode & 0o004, 0o004, name)
  }
})

test('every directory that is mounted over /etc has its place', () => {
  for (const mount of etcMounts(etc, host).slice(1)) {
    if (mount.target.startsWith('/etc/'))
      assert.ok(statSync(join(etc, mount.target.slice(5))).isDirectory(), mount.target)
  }
})

test('a JVM reads the truststore and finds every root in it', {
  skip: !existsSync('/usr/bin/keytool') && 'no JDK here',
}, () => {
  const path = join(dir, 'cacerts')
  writeFileSync(path, javaTruststore([ca.cert], new Date(1_750_000_000_000)))
  const listed = execFileSync(
    '/usr/bin/keytool',
    ['-list', '-rfc', '-keystore', path, '-storepass', 'changeit'],
    { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] },
  )
  const pem = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/.exec(listed)?.[0] ?? ''
  assert.equal(new X509Certificate(pem).fingerprint256, new X509Certificate(ca.cert).fingerprint256)
})

test('the listing of /etc is short', () => {
  assert.ok(readdirSync(etc).length < 60)
})
