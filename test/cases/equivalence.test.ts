/**
 * The same on each runtime: an allowed and a refused action of every kind, made by one list of steps in one session,
 * give the same decision to the agent and the same event in the log. Where only the refusal's word differs, `WORDS` says so.
 */
import assert from 'node:assert/strict'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { test } from 'node:test'
import { type RuntimeName, RUNTIMES } from '../../src/profile/plan.ts'
import { once } from '../support/case.ts'
import { labMissing } from '../support/lab.ts'
import { EVIL, get, netStage, outsideEnv, post, PUBLIC, rule } from '../support/net-stage.ts'
import { placeImage } from '../support/place-image.ts'
import { withoutRuntime } from '../support/runtime.ts'
import { describe, type Result, type Stage, type Step, type Steps } from '../support/stage.ts'

const PATIENCE: Readonly<Record<RuntimeName, number>> = {
  'os-sandbox': 60_000,
  container: 120_000,
  microvm: 280_000,
}

/** What is compared of the log; how often a file is opened, and when its digest is known, follows a runtime's way to files. */
const COMPARED =
  /^(file\.(open|denied|write|create|delete|rename|attributes)|http\.(request|denied)|net\.denied|dns\.query|process\.launch)$/

const spec = (stage: Stage, runtime: RuntimeName): Record<string, unknown> => ({
  isolation: { runtime, limits: 'partly', memory: '1GiB', processes: 256, wallclock: '8m', disk: '8MiB' },
  files: [
    { path: '${project}', access: 'review' },
    { path: '${workspace}', access: 'write' },
    { path: join(stage.outside, 'library'), access: 'read' },
    { path: join(stage.outside, 'plain'), access: 'read', via: 'mount' },
  ],
  hide: ['**/.env', '**/secret-tool'],
  network: [rule(stage, 'good.test', { methods: ['GET', 'POST'], paths: ['/ok*'] })],
  upload: { perRequest: '1KiB', perMinute: '1MiB', perSession: '1MiB' },
})

/** Each kind twice: what the profile allows, and what it refuses. */
function steps(stage: Stage): Step[] {
  const at = (path: string): string => join(stage.root, path)
  const probe = (name: string, ...args: string[]): Step => ({ name, op: 'probe', args })
  return [
    { name: 'read', op: 'read', path: at('outside/library/a.txt') },
    { name: 'read outside', op: 'read', path: at('outside/secret.txt') },
    { name: 'write', op: 'write', path: at('workspace/new.txt') },
    { name: 'plain read', op: 'read', path: at('outside/plain/a.txt') },
    { name: 'plain write', op: 'write', path: at('outside/plain/a.txt') },
    { name: 'chmod', op: 'chmod', path: at('workspace/old.txt'), mode: 0o600 },
    { name: 'write read-only', op: 'write', path: at('outside/library/a.txt') },
    { name: 'create read-only', op: 'create', path: at('outside/library/b.txt') },
    { name: 'make directory', op: 'mkdir', path: at('workspace/made') },
    { name: 'rename', op: 'rename', from: at('workspace/old.txt'), to: at('workspace/moved.txt') },
    { name: 'delete', op: 'unlink', path: at('workspace/moved.txt') },
    { name: 'delete read-only', op: 'unlink', path: at('outside/library/a.txt') },
    { name: 'hidden read', op: 'read', path: at('project/.env') },
    { name: 'hidden create', op: 'create', path: at('workspace/.env') },
    { name: 'hidden list', op: 'list', path: at('project/sub') },
    { name: 'protected read', op: 'read', path: at('project/.git/config') },
    { name: 'protected write', op: 'append', path: at('project/.git/config') },
    { name: 'protected chmod', op: 'chmod', path: at('project/.git/config'), mode: 0o777 },
    { name: 'protected rename', op: 'rename', from: at('project/.git/config'), to: at('project/.git/c') },
    { name: 'review', op: 'write', path: at('project/notes.txt') },
    { name: 'link out', op: 'symlink', target: at('outside/secret.txt'), path: at('workspace/out') },
    { name: 'read link out', op: 'read', path: at('workspace/out') },
    { name: 'exec', op: 'exec', argv: ['/bin/true'] },
    { name: 'exec hidden', op: 'exec', argv: [at('project/secret-tool')] },
    get('host', 'https://good.test/ok'),
    get('host refused', 'https://evil.test/ok'),
    get('method refused', 'https://good.test/ok', { method: 'DELETE' }),
    get('path refused', 'https://good.test/private'),
    post('upload', 'https://good.test/ok', 'x'.repeat(512)),
    post('upload over budget', 'https://good.test/ok', 'x'.repeat(4096)),
    { name: 'name', op: 'lookup', host: 'good.test' },
    { name: 'name refused', op: 'lookup', host: 'evil.test' },
    { name: 'other server', op: 'resolve', host: 'data.evil.test', server: EVIL },
    { name: 'stream', op: 'tcp', host: 'good.test', port: 443, wait: 500 },
    { name: 'stream by address', op: 'http', url: `https://${PUBLIC}/ok`, timeout: 5000 },
    { name: 'other port', op: 'tcp', host: EVIL, port: 61_880, send: 'no TLS\r\n', wait: 5000 },
    { name: 'datagram', op: 'udp', host: EVIL, port: 4433 },
    probe('own unix socket', 'call', '41', '1', '1', '0'),
    { name: 'unix socket of the host', op: 'unix', path: at('project/host.sock') },
    { name: 'quota', op: 'sh', cmd: `head -c 100000 /dev/zero > ${at('workspace/small')}` },
    {
      name: 'quota exceeded',
      op: 'sh',
      cmd: `head -c 12000000 /dev/zero > ${at('workspace/big')}`,
      timeout: 60_000,
    },
    probe('namespace', 'unshare-user'),
    probe('mount', 'mount'),
    probe('packet socket', 'socket-packet'),
  ]
}

/** A runtime may open a file that it makes once more, and set its attributes; never one that nobody asked for. */
const MAY_REPEAT = /^file\.(open|attributes) · .* (~\/\S+)/

interface Seen {
  readonly decisions: Readonly<Record<string, string>>
  readonly events: readonly string[]
}

/** One session with all of them. */
const seen = once(async (runtime: RuntimeName): Promise<Seen> => {
  const stage = await netStage('user', {
    files: {
      '.env': 'hidden',
      'sub/.env': 'hidden',
      'sub/a.txt': 'a',
      'notes.txt': 'notes\n',
      'secret-tool': '#!/bin/sh\n',
      '.git/config': '[core]\n',
    },
  })
  stage.put(stage.outside, { 'secret.txt': 'the secret outside' })
  stage.put(join(stage.outside, 'library'), { 'a.txt': 'a' })
  stage.put(join(stage.outside, 'plain'), { 'a.txt': 'a' })
  // Not what the session wrote itself: gVisor keeps that open on the host, so its record may come under the new name.
  stage.put(stage.workspace, { 'old.txt': 'old' })
  const server = createServer((socket) => socket.end('host answers'))
  await new Promise<void>((resolve) =>
    server.listen({ path: join(stage.project, 'host.sock'), readableAll: true, writableAll: true }, resolve),
  )
  if (runtime === 'microvm') await placeImage(stage)
  try {
    const ran = await stage.inside(steps(stage), {
      spec: spec(stage, runtime),
      timeout: PATIENCE[runtime],
      env: outsideEnv(stage),
    })
    assert.equal(ran.code, 0, describe(ran))
    const events = await stage.events()
    return { decisions: decisionsOf(stage, ran), events: eventsOf(stage, events) }
  } finally {
    server.close()
  }
})

const decisionsOf = (stage: Stage, ran: Steps): Record<string, string> =>
  Object.fromEntries(steps(stage).map(({ name }) => [name, decision(ran.result(name))]))

function decision({ ok, error, value }: Result): string {
  if (!ok) return error ?? 'no code'
  if (typeof value?.status === 'number') return `HTTP ${value.status}`
  // A stream that the gate takes, to close it without a word.
  if (typeof value?.received === 'string' && value.closed)
    return `closed after ${value.received.length} bytes`
  if (value?.code !== undefined) return `exit ${value.code ?? value.signal}`
  return typeof value === 'string' && /^E[A-Z]+$/.test(value) ? value : 'ok'
}

/** What the log says of the decisions on the files and hosts of this test, without what no two sessions share. */
function eventsOf(stage: Stage, events: readonly any[]): string[] {
  const own = (text: string): string => text.replaceAll(stage.root, '~')
  const lines = events
    .filter(({ ambit }) => COMPARED.test(ambit.kind))
    .map(({ ambit, message, disposition_id, firewall_rule }) => {
      const rule = firewall_rule?.uid ?? '-'
      return `${ambit.kind} · ${own(message)} · ${disposition_id} · ${own(rule)}`
    })
    // Ambit's home, the probe's own files; closures and plain mounts go through the view of a machine alone.
    .filter((line) => !/~\/(home|project\/tools|outside\/plain)/.test(line))
    .filter((line) => line.includes('~/') || !line.startsWith('file.'))
  return [...new Set(lines)].toSorted()
}

/** The steps that the profile allows; every other one is refused. */
const ALLOWED = [
  'read',
  'plain read',
  'chmod',
  'write',
  'make directory',
  'rename',
  'delete',
  'hidden list',
  'protected read',
  'review',
  'link out',
  'exec',
  'host',
  'upload',
  'name',
  'stream',
  'own unix socket',
  'quota',
  // Whatever server is asked, the gate answers: an address at which it says why not.
  'name refused',
  'other server',
]

/** The same refusal in other words of the agent's kernel. */
const WORDS: Readonly<Partial<Record<RuntimeName, Readonly<Record<string, string>>>>> = {
  container: { 'unix socket of the host': 'EPERM' },
  // The guest's kernel is told that nobody is there, by the host's.
  microvm: { datagram: 'ECONNREFUSED' },
}

test('the steps are allowed and refused as the profile says', { skip: labMissing ?? false }, async () => {
  const { decisions, events } = await seen('os-sandbox')
  for (const [name, got] of Object.entries(decisions))
    assert.equal(/^(ok|HTTP 200|exit 0)$/.test(got), ALLOWED.includes(name), `${name}: ${got}`)
  assert.ok(events.length > 20, events.join('\n'))
})

for (const runtime of RUNTIMES.filter((name) => name !== 'os-sandbox')) {
  const skip = labMissing ?? withoutRuntime(runtime) ?? false
  test(`${runtime} decides and records each of them as os-sandbox does`, { skip }, async () => {
    const [reference, own] = [await seen('os-sandbox'), await seen(runtime)]
    assert.deepEqual(own.decisions, { ...reference.decisions, ...WORDS[runtime] })
    const further = own.events.filter((line) => MAY_REPEAT.test(line) && !reference.events.includes(line))
    for (const line of further) {
      const path = MAY_REPEAT.exec(line)?.[2] ?? ''
      assert.ok(
        reference.events.some((other) => other.split(' ').includes(path)),
        `nobody asked for: ${line}`,
      )
    }
    assert.deepEqual(own.events, [...reference.events, ...further].toSorted())
  })
}
