/** The microvm runtime: a machine for the agent, and all that os-sandbox gives around it. */
import assert from 'node:assert/strict'
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as pause } from 'node:timers/promises'
import { attackIn } from '../support/case.ts'
import { cannotBoot } from '../support/guest.ts'
import { labMissing } from '../support/lab.ts'
import { ISOLATION, machineStage, placeImage } from '../support/machine-stage.ts'
import { netStage, PUBLIC, rule, watching } from '../support/net-stage.ts'
import { describe, Stage } from '../support/stage.ts'
import { type As, unavailable } from '../support/users.ts'

const missing = cannotBoot || (existsSync('/dev/net/tun') ? null : 'no /dev/net/tun')
const SECRET = 'the secret outside'
const SPEC = { hide: ['**/.env'] }

/** What no catalogued attack names. */
function life(reason: string | null, title: string, as: As, body: () => Promise<unknown>): void {
  test(`microvm: ${title}, as ${as}`, { skip: reason ?? unavailable(as) ?? false }, async () => {
    await body()
  })
}

const sh = (script: string): string[] => ['/bin/sh', '-c', script]
const stageOf = (as: As): Promise<Stage> =>
  machineStage(as, { files: { 'notes.txt': 'notes\n', '.env': SECRET }, spec: SPEC })

for (const as of ['user', 'root'] as const)
  life(missing, 'runs a command with its files, streams, record and exit code', as, async () => {
    const stage = await stageOf(as)
    const script = [
      'cat notes.txt; cat; cat .env 2>/dev/null; echo out >&2',
      'echo new > new.txt; echo kept > ~/kept; cat ~/kept; uname -r; id -u; exit 7',
    ].join('\n')
    const ran = await stage.session(sh(script), { input: 'typed\n' })
    assert.equal(ran.code, 7, describe(ran))
    const [notes, typed, kept, kernel, uid] = ran.stdout.split('\n')
    assert.deepEqual([notes, typed, kept], ['notes', 'typed', 'kept'], describe(ran))
    assert.notEqual(uid, '0')
    assert.ok(!readFileSync('/proc/version', 'utf8').includes(kernel ?? ''), 'a kernel of its own')
    assert.ok(!ran.stdout.includes(SECRET))
    assert.match(ran.stderr, /^out$/m)
    assert.equal(readFileSync(join(stage.project, 'new.txt'), 'utf8'), 'new\n')
    const kinds = (await stage.events()).map((event) => event.ambit.kind as string)
    const order = ['machine.image', 'session.enforced', 'process.launch', 'session.end']
    assert.deepEqual(
      order.map((kind) => kinds.indexOf(kind)).toSorted((a, b) => a - b),
      order.map((kind) => kinds.indexOf(kind)),
    )
    assert.ok(kinds.includes('machine.image') && kinds.includes('file.denied'), kinds.join())
  })

life(missing, 'keeps changes for review', 'user', async () => {
  const stage = await stageOf('user')
  const ran = await stage.session(sh('echo changed > notes.txt; cat notes.txt'), {
    spec: { files: [{ path: '${project}', access: 'review' }] },
  })
  assert.equal(ran.stdout, 'changed\n', describe(ran))
  assert.equal(readFileSync(join(stage.project, 'notes.txt'), 'utf8'), 'notes\n')
  const list = await stage.ambit(['review', ran.summary.session])
  assert.match(list.stdout, /notes\.txt/, describe(list))
})

life(missing, 'refuses an image that was altered, and says how to get one', 'user', async () => {
  const stage = await stageOf('user')
  const line = join(stage.ambitHome, 'state/images/default/manifest.json')
  const before = readFileSync(line, 'utf8')
  const other = join(stage.ambitHome, 'state/images/other.json')
  writeFileSync(other, before.replace('panic=-1', 'panic=-2'))
  const swap = await stage.command(sh(`mv -f ${other} ${line}`))
  assert.equal(swap.code, 0, describe(swap))
  const altered = await stage.session(['/bin/true'])
  assert.equal(altered.code, 125)
  assert.match(altered.stderr, /will not start the image .*ambit image build/, describe(altered))
  await stage.command(sh(`rm -rf ${join(stage.ambitHome, 'state/images')}`))
  const none = await stage.session(['/bin/true'])
  assert.match(none.stderr, /run: ambit image build \[ERR_RUNTIME_MISSING\]/, describe(none))
})

for (const as of ['user', 'root'] as const)
  life(missing, 'goes on from a snapshot that no session shares anything of', as, async () => {
    const stage = await stageOf(as)
    const took = await stage.ambit(['image', 'warm', '--profile', stage.profile()])
    assert.match(took.stdout, /state\/snapshots\/[0-9a-f]{32} {2}\d+ MiB/, describe(took))
    // A clock that went on from the snapshot's would be behind by so much.
    await pause(10_000)
    const script = [
      'echo x > begun; date +%s > clock',
      'cat /proc/sys/kernel/random/boot_id; head -c 16 /dev/urandom | od -An -tx1; nproc',
      'cat notes.txt; echo made > made',
    ].join('\n')
    const run = async () => {
      const ran = await stage.session(sh(script))
      assert.equal(ran.code, 0, describe(ran))
      const [id = '', random = '', , notes] = ran.stdout.split('\n')
      assert.equal(notes, 'notes')
      // The host's own clock says when each was written.
      const [begun = 0, told = 0] = ['begun', 'clock'].map(
        (name) => statSync(join(stage.project, name)).ctimeMs / 1000,
      )
      const clock = Number(readFileSync(join(stage.project, 'clock'), 'utf8'))
      assert.ok(begun - 3 < clock && clock < told + 3, `its clock said ${clock} between ${begun} and ${told}`)
      return { id, random, session: ran.summary.session }
    }
    const runs = [await run(), await run()]
    assert.notEqual(runs[0]?.id, runs[1]?.id)
    assert.notEqual(runs[0]?.random, runs[1]?.random)
    for (const { session } of runs) {
      const [measured] = (await stage.events(session)).filter(({ ambit }) => ambit.kind === 'machine.image')
      assert.match(JSON.stringify(measured), /"snapshot":"[0-9a-f]{64}"/)
      const quote = join(stage.project, `${session}.json`)
      const asked = await stage.ambit(['attest', session, '--last', '--out', quote])
      assert.equal(asked.code, 0, describe(asked))
      const verdict = await stage.ambit(['attest', 'verify', quote, '--last', '--json'])
      assert.match(verdict.stdout, /"snapshot":"[0-9a-f]{64}"/, describe(verdict))
    }
    if (as === 'root') return
    const machine = await stage.command(
      sh(`for at in ${stage.ambitHome}/state/snapshots/*/machine; do echo x >> $at; done`),
    )
    assert.equal(machine.code, 0, describe(machine))
    const altered = await stage.session(['/bin/true'])
    assert.equal(altered.code, 125)
    assert.match(
      altered.stderr,
      /will not start from the snapshot .*: it is not the one that was signed; make it anew/,
    )
    const other = await stage.session(sh('echo booted'), { spec: { isolation: { ...ISOLATION, cpus: 1 } } })
    assert.equal(other.stdout, 'booted\n', 'one of another shape boots')
  })

attackIn(missing ?? labMissing)(
  'C-52',
  'the machine reaches the gate and nothing else of the host',
  async (as) => {
    const stage = await netStage(as, { spec: { isolation: ISOLATION } })
    await placeImage(stage)
    // The first has its TLS translated on the way: on a busy machine that alone took more than 8 s.
    const curl = 'curl -s -m 40 -o /dev/null -w "%{http_code}\\n"'
    const script = [
      `${curl} https://good.test/from-a-machine`,
      `${curl} https://evil.test/ || true`,
      ...['192.0.0.1:22', '192.0.0.1:6277', '10.0.2.2:6277', '127.0.0.1:6277'].map(
        (place) => `curl -s -m 8 http://${place}/ | head -c 20; echo`,
      ),
      // AF_VSOCK, AF_PACKET: refused before there is a device that could answer.
      `perl -e 'for (40, 17) { print socket(my $s, $_, 1, 0) ? "open\\n" : "refused\\n" }'`,
      'ls /dev /dev/virtio-ports 2>/dev/null | grep -c -e vport -e vsock -e kvm -e hvc -e vda',
    ].join('\n')
    const seen = await watching(() =>
      stage.session(sh(script), { spec: { network: [rule(stage, 'good.test')] } }),
    )
    const ran = seen.value
    const [good, evil, ...rest] = ran.stdout.split('\n')
    assert.equal(good, '200', describe(ran))
    assert.notEqual(evil, '200')
    assert.ok(!ran.stdout.includes('local service'), describe(ran))
    assert.deepEqual(rest.slice(-4, -1), ['refused', 'refused', '0'], describe(ran))
    assert.deepEqual([seen.arrived.length, seen.evil, seen.local], [1, 0, 0])
    assert.ok(PUBLIC)
    return 'one allowed request; gateway, user-net, vsock, packet sockets, ports: nothing'
  },
)
