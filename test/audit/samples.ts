/** One fact of every kind, with the texts an attacker would choose. */
import { crc32 } from 'node:zlib'
import type { Fact, FactBody, FactKind } from '../../src/audit/fact.ts'

const evil = 'a\nb\u001b]52;c;x\u0007\u202egnp.exe"\\'
const digest = 'ab'.repeat(32)

const BODIES: { readonly [K in FactKind]: Extract<FactBody, { k: K }> } = {
  'session.start': {
    k: 'session.start',
    user: 'alice',
    uid: 1000,
    profile: 'writer',
    planDigest: digest,
    sheetDigest: digest,
    runtime: 'os-sandbox',
    argv: ['claude', evil],
    agent: { name: 'claude', version: '2.1.0', digest },
    cwd: '/home/alice/work',
  },
  'session.enforced': {
    k: 'session.enforced',
    controls: [
      { control: 'seccomp', state: 'fully', detail: 'x' },
      { control: 'memory-limit', state: 'partly', detail: 'watchdog' },
    ],
  },
  'machine.image': {
    k: 'machine.image',
    image: digest,
    kernel: digest,
    initramfs: digest,
    root: digest,
    commandLine: digest,
    planDigest: digest,
    snapshot: digest,
  },
  'machine.measured': { k: 'machine.measured', device: 'swtpm', ak: digest, eventLog: digest },
  'machine.quote': { k: 'machine.quote', nonce: digest, quote: digest, signature: digest, by: evil },
  'session.end': { k: 'session.end', outcome: 'killed', exit: 125, reason: 'over memory' },
  'session.freeze': { k: 'session.freeze', by: 'alice' },
  'session.thaw': { k: 'session.thaw', by: 'alice' },
  'session.stalled': { k: 'session.stalled', reason: 'disk full' },
  'process.launch': {
    k: 'process.launch',
    pid: 7,
    ppid: 1,
    path: '/usr/bin/git',
    digest,
    argv: ['git', evil],
    cwd: '/w',
    truncated: false,
  },
  'process.exit': { k: 'process.exit', pid: 7, code: 0 },
  'process.denied': { k: 'process.denied', pid: 7, path: `/tmp/${evil}`, reason: 'not allowed' },
  'file.open': {
    k: 'file.open',
    path: `/w/${evil}`,
    mode: 'read',
    size: 12,
    sha256: digest,
    label: 'confidential',
  },
  'file.write': { k: 'file.write', path: '/w/out.csv', size: 12, sha256: null, label: 'internal' },
  'file.intent': { k: 'file.intent', path: '/w', files: 256, label: 'internal' },
  'file.create': { k: 'file.create', path: '/w/new', type: 'dir' },
  'file.delete': { k: 'file.delete', path: '/w/old' },
  'file.rename': { k: 'file.rename', path: '/w/a', to: '/w/b' },
  'file.attributes': { k: 'file.attributes', path: '/w/a' },
  'file.failed': { k: 'file.failed', path: '/w/a', to: '/w/b', op: 'rename', reason: 'Directory not empty' },
  'file.hash': { k: 'file.hash', path: '/w/a', size: 5, sha256: digest },
  'file.denied': {
    k: 'file.denied',
    path: '/w/.git/hooks/pre-commit',
    op: 'create',
    reason: 'protected',
    rule: 'files[0]',
  },
  'dns.query': {
    k: 'dns.query',
    name: 'x.evil.example',
    type: 'A',
    answer: null,
    reason: 'network.no-matching-rule',
    rule: null,
  },
  'net.open': {
    k: 'net.open',
    flow: 1,
    host: 'api.anthropic.com',
    address: '160.79.104.10',
    port: 443,
    rule: 'network[0]',
    tls: {
      version: 'TLSv1.3',
      subject: 'CN=api.anthropic.com',
      issuer: 'CN=E1',
      sha256: digest,
      notAfter: '2027-01-01T00:00:00Z',
    },
  },
  'net.close': { k: 'net.close', flow: 1, host: 'api.anthropic.com', bytesOut: 10, bytesIn: 20, ms: 5 },
  'net.denied': {
    k: 'net.denied',
    flow: 2,
    host: '',
    address: '10.0.0.1',
    port: 22,
    reason: 'network.private-address',
    rule: null,
  },
  'http.request': {
    k: 'http.request',
    flow: 1,
    request: 1,
    method: 'POST',
    host: 'api.anthropic.com',
    port: 443,
    path: '/v1/messages?beta=true',
    rule: 'network[0]',
    credential: 'anthropic',
    label: 'internal',
    bytes: 100,
  },
  'http.response': {
    k: 'http.response',
    flow: 1,
    request: 1,
    status: 200,
    bytesOut: 100,
    bytesIn: 900,
    ms: 80,
    scrubbed: 0,
  },
  'http.denied': {
    k: 'http.denied',
    flow: 3,
    method: 'PROPFIND',
    host: 'api.anthropic.com',
    port: 443,
    path: `/${evil}`,
    reason: 'network.method-not-allowed',
    rule: 'network[0]',
    status: 403,
  },
  'credential.injected': {
    k: 'credential.injected',
    name: 'anthropic',
    host: 'api.anthropic.com',
    request: 1,
  },
  'credential.foreign': {
    k: 'credential.foreign',
    host: 'api.anthropic.com',
    header: 'x-api-key',
    fingerprint: 'sha256:ab',
  },
  decision: {
    k: 'decision',
    action: 'admission',
    effect: 'allow',
    reason: 'policy',
    rule: null,
    target: 'writer',
  },
  'review.applied': { k: 'review.applied', path: '/w/a', sha256: digest },
  'review.dropped': { k: 'review.dropped', path: '/w/b' },
  gap: { k: 'gap', journal: 'view', reason: 'corrupt at byte 99' },
}

export const SAMPLES: readonly Fact[] = Object.values(BODIES).map((body, i) => ({
  ...body,
  t: 1_763_800_000_000 + i,
  m: 5_000_000 + i,
}))

/** One record as it lies in a journal, by itself: src/audit/journal.ts frames natively. */
export function frame(payload: Uint8Array): Buffer {
  const record = Buffer.alloc(payload.length + 8)
  record.writeUInt32LE(payload.length, 0)
  record.writeUInt32LE(crc32(payload), 4)
  record.set(payload, 8)
  return record
}
