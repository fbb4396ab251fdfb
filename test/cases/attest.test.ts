/** Measured starts: what a machine starts from is on record and in its TPM, and a quote shows it. */
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { keysDir } from '../../src/lib/paths.ts'
import { parseAttestation } from '../../src/runtime/attestation/document.ts'
import { loadImageKey, signContent } from '../../src/runtime/microvm-image/minisign.ts'
import { cannotBoot } from '../support/guest.ts'
import { machineStage } from '../support/machine-stage.ts'
import { eventually } from '../support/processes.ts'
import { describe, Stage } from '../support/stage.ts'
import { judge, tpmToolsMissing } from '../support/tpm.ts'
import { type As, unavailable } from '../support/users.ts'

const missing = cannotBoot || tpmToolsMissing || (existsSync('/dev/net/tun') ? null : 'no /dev/net/tun')
const sh = (script: string): string[] => ['/bin/sh', '-c', script]
/** The machine stands until its standard input would be told; here until the test has asked. */
const WAITS = 'echo up > up; until ls | grep -q "^go$"; do sleep 0.1; done; ls /dev | grep -c tpm; true'

for (const as of ['user', 'root'] as const)
  test(
    `attest: a quote shows the image, and only that, as ${as}`,
    { skip: missing ?? unavailable(as) ?? false },
    () => attestOne(as),
  )

async function attestOne(as: As): Promise<void> {
  const stage = await machineStage(as)
  const running = stage.session(sh(WAITS))
  const up = eventually(() => existsSync(join(stage.project, 'up')), 60_000)
  const early = await Promise.race([running, up])
  assert.ok(early === true, `control: it runs\n${typeof early === 'boolean' ? early : describe(early)}`)
  const id = await sessionOf(stage)
  assert.equal(swtpmsOf(stage).length, 1, 'a TPM of its own')
  const nonce = randomBytes(32).toString('hex')
  const file = join(stage.project, 'quote.json')
  const asked = await stage.ambit(['attest', id, '--nonce', nonce, '--out', file])
  assert.equal(asked.code, 0, describe(asked))
  stage.put(stage.project, { go: '' })
  const ran = await running
  assert.equal(ran.code, 0, describe(ran))
  assert.equal(ran.stdout, '0\n', 'the agent has no device of it')
  assert.ok(await eventually(() => swtpmsOf(stage).length === 0, 5_000), 'it ends with the session')

  const verify = (path: string, ...more: string[]) => stage.ambit(['attest', 'verify', path, ...more])
  const good = await verify(file, '--nonce', nonce, '--json')
  assert.equal(good.code, 0, describe(good))
  const { ok, shown } = JSON.parse(good.stdout) as { ok: boolean; shown: Record<string, unknown> }
  assert.ok(ok)
  const attestation = parseAttestation(readFileSync(file, 'utf8'))
  assert.ok(attestation)
  const judged = judge(join(stage.root, 'judge'), attestation, nonce)
  assert.ok(judged.signed, 'tpm2_checkquote agrees')
  assert.deepEqual(judged.registers, shown.registers, 'tpm2_eventlog agrees')

  await orderOnRecord(stage, id)
  const last = join(stage.project, 'last.json')
  const ended = await stage.ambit(['attest', id, '--last', '--out', last])
  assert.equal(ended.code, 0, describe(ended))
  assert.equal((await verify(last, '--last')).code, 0)
  const late = await stage.ambit(['attest', id, '--nonce', nonce])
  assert.match(late.stderr, /it does not run/, describe(late))

  const refused = async (wanted: RegExp, ...args: string[]): Promise<void> => {
    const ran = await verify(...(args as [string]))
    assert.ok(ran.code === 1 || ran.code === 125, describe(ran))
    assert.match(ran.stderr, wanted, describe(ran))
    assert.equal(ran.stderr.trimEnd().split('\n').length, 1, 'one line')
  }
  const other = randomBytes(32).toString('hex')
  await refused(/over another nonce/, file, '--nonce', other)
  await refused(/over another nonce/, last, '--nonce', nonce)
  stage.put(stage.project, {
    'altered.json': JSON.stringify({ ...attestation, quote: altered(attestation.quote) }),
  })
  await refused(/not signed by its key/, join(stage.project, 'altered.json'), '--nonce', nonce)
  const log = { ...attestation, eventLog: altered(attestation.eventLog) }
  stage.put(stage.project, { 'log.json': JSON.stringify(log) })
  await refused(/event log is not the one/, join(stage.project, 'log.json'), '--nonce', nonce)
  await refused(/from this profile/, file, '--nonce', nonce, '--profile', other)
  await manifests(stage, file, nonce, refused)
  await elsewhere(stage, file, nonce, refused)
}

type Refused = (wanted: RegExp, ...args: string[]) => Promise<void>

/** Unsigned, altered, and another one that the same key signed. */
async function manifests(stage: Stage, file: string, nonce: string, refused: Refused): Promise<void> {
  const state = join(stage.ambitHome, 'state')
  const text = readFileSync(join(state, 'images/default/manifest.json'), 'utf8')
  const parsed = JSON.parse(text) as { kernel: { sha256: string } }
  const kernel = text.replace(parsed.kernel.sha256, altered(parsed.kernel.sha256))
  const place = join(stage.project, 'manifest.json')
  const args = [file, '--nonce', nonce, '--manifest', place]
  stage.put(stage.project, { 'manifest.json': kernel })
  await refused(/it is not signed/, ...args)
  cpSync(join(state, 'images/default/manifest.json.minisig'), `${place}.minisig`)
  stage.own()
  await refused(/its signature does not fit it/, ...args)
  const paths = { config: '', run: '', state }
  const key = process.getuid?.() === 0 && stage.as === 'user' ? null : loadImageKey(keysDir(paths))
  if (!key) return // Another account's key is not read: the other variant of this test does.
  stage.put(stage.project, {
    'manifest.json.minisig': signContent(Buffer.from(kernel), key, 'another image'),
  })
  await refused(/did not start from this kernel/, ...args)
}

/** An auditor has copies and keys, and nothing of this machine's state. A copy that was altered is no evidence. */
async function elsewhere(stage: Stage, file: string, nonce: string, refused: Refused): Promise<void> {
  const away = join(stage.outside, 'auditor')
  mkdirSync(away)
  const [dir, key, imageKey] = await Promise.all(
    [
      ['log', 'dir'],
      ['log', 'key'],
      ['image', 'key'],
    ].map(async (words) => (await stage.ambit(words)).stdout.trim()),
  )
  cpSync(dir ?? '', join(away, 'log'), { recursive: true })
  for (const name of ['manifest.json', 'manifest.json.minisig'])
    cpSync(join(stage.ambitHome, 'state/images/default', name), join(away, name))
  writeFileSync(join(away, 'image.pub'), `${imageKey}\n`)
  cpSync(file, join(away, 'quote.json'))
  stage.own()
  const copies = ['--log', join(away, 'log'), '--manifest', join(away, 'manifest.json')]
  const keys = ['--key', key ?? '', '--image-key', join(away, 'image.pub')]
  const args = [join(away, 'quote.json'), '--nonce', nonce, ...copies, ...keys]
  const ran = await stage.ambit(['attest', 'verify', ...args], { env: { AMBIT_HOME: join(away, 'home') } })
  assert.equal(ran.code, 0, describe(ran))
  const entries = join(away, 'log/tile/entries')
  const [tile = ''] = readdirSync(entries, { recursive: true, encoding: 'utf8' })
    .filter((name) => /\d+$/.test(name))
    .slice(-1)
  const path = join(entries, tile)
  writeFileSync(path, readFileSync(path, 'latin1').replace('machine.measured', 'machine.Measured'), 'latin1')
  await refused(/ERR_LOG_INCONSISTENT/, ...args)
}

/** What starts is on record before its first instruction, and so before anything that the guest says. */
async function orderOnRecord(stage: Stage, id: string): Promise<void> {
  const kinds = (await stage.events(id)).map((event) => event.ambit.kind as string)
  const order = [
    'machine.image',
    'machine.measured',
    'session.enforced',
    'process.launch',
    'machine.quote',
    'session.end',
  ]
  const places = order.map((kind) => kinds.indexOf(kind))
  assert.ok(!places.includes(-1), kinds.join())
  assert.deepEqual(
    places.toSorted((a, b) => a - b),
    places,
    kinds.join(),
  )
  assert.equal(
    kinds.filter((kind) => kind === 'machine.quote').length,
    2,
    'the one that was asked for, and the last',
  )
}

test('attest: what is not measured is said so, and a nonce is asked for', {
  skip: missing ?? false,
}, async () => {
  const stage = new Stage('root')
  const running = stage.session(sh('echo up > up; sleep 600'))
  assert.ok(await eventually(() => existsSync(join(stage.project, 'up')), 30_000))
  const id = await sessionOf(stage)
  const ran = await stage.ambit(['attest', id, '--nonce', '00'.repeat(16)])
  assert.match(ran.stderr, /only a microvm has a TPM; .*--runtime microvm/, describe(ran))
  for (const [words, why] of [
    [[id], /--nonce HEX or --last/],
    [[id, '--nonce', 'ab'], /16 to 64 bytes/],
    [['verify'], /name one file/],
  ] as const) {
    const ran = await stage.ambit(['attest', ...words])
    assert.equal(ran.code, 2, describe(ran))
    assert.match(ran.stderr, why)
  }
  await stage.ambit(['kill', id])
  await running
})

const altered = (hex: string): string => hex.slice(0, -1) + (hex.endsWith('0') ? '1' : '0')

async function sessionOf(stage: Stage): Promise<string> {
  const listed = await stage.ambit(['sessions', '--json'])
  const [session] = JSON.parse(listed.stdout) as { id: string }[]
  assert.ok(session, describe(listed))
  return session.id
}

/** TPMs below processes of the stage. */
function swtpmsOf(stage: Stage): string[] {
  return readdirSync('/proc').filter((pid) => {
    try {
      return (
        /^\d+$/.test(pid) && readFileSync(`/proc/${pid}/comm`, 'utf8') === 'swtpm\n' && isBelow(pid, stage)
      )
    } catch {
      return false // gone meanwhile
    }
  })
}

function isBelow(pid: string, stage: Stage): boolean {
  for (let at = pid; at !== '1' && at !== '0'; ) {
    if (readFileSync(`/proc/${at}/cmdline`, 'utf8').includes(stage.root)) return true
    at = /^PPid:\t(\d+)$/m.exec(readFileSync(`/proc/${at}/status`, 'utf8'))?.[1] ?? '0'
  }
  return false
}
