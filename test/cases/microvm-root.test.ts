/**
 * Root in the guest of a whole session (test/support/probe/machine-root.c): what it can do to the files, the devices and
 * the network, and what becomes of a session whose guest lies.
 */
import assert from 'node:assert/strict'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { createServer, type Server } from 'node:net'
import { networkInterfaces } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { attackIn, once } from '../support/case.ts'
import { placeHostileImage } from '../support/hostile-image.ts'
import { type Beside, machineBeside, PLACE as BESIDE } from '../support/machine-beside.ts'
import { ISOLATION } from '../support/machine-stage.ts'
import { withoutRuntime } from '../support/runtime.ts'
import { describe, type SessionRan, Stage } from '../support/stage.ts'
import { type As, unavailable } from '../support/users.ts'

const missing = withoutRuntime('microvm')
const SECRET = 'the secret outside'
/** The agent waits for root's report, and then does not end. */
const AGENT =
  'until grep -q ^done report.txt 2>/dev/null; do sleep 0.2; done; echo x > goes-on.txt; sleep 600'

/** Root is there from the machine's first moment, also where a snapshot was taken of it. */
const WAYS = ['booted', 'resumed'] as const
type Way = (typeof WAYS)[number]

interface Scene {
  readonly stage: Stage
  readonly ran: SessionRan
  readonly report: ReadonlyMap<string, string>
  /** Where a port of the host's listens, by several addresses. */
  readonly places: readonly string[]
  /** Connections there, and at the host's socket in the project. */
  readonly arrived: number
  /** What came to the machine beside it, and to that one's gate. */
  readonly beside: readonly string[]
}

function dress(as: As, part: readonly string[]): Stage {
  const stage = new Stage(as, {
    files: {
      'part.txt': part.join('\n'),
      'open.txt': 'open',
      '.env': SECRET,
      'sub/': '',
      '.git/hooks/': '',
      'foreign.txt': SECRET,
      'foreign/secret.txt': SECRET,
    },
    spec: { isolation: ISOLATION, hide: ['**/.env'] },
  })
  stage.put(stage.outside, { 'secret.txt': SECRET })
  symlinkSync(join(stage.outside, 'secret.txt'), join(stage.project, 'out'))
  const fixed = join(stage.root, 'fixed')
  mkdirSync(fixed)
  writeFileSync(join(fixed, 'fixed.txt'), 'as it was')
  return stage
}

/** Somebody else's, in the session's own root; needs root to be made, and a stage that has been given to its user. */
function makeForeign(stage: Stage): boolean {
  if (process.getuid?.() !== 0) return false
  const { chownSync } = process.getBuiltinModule('node:fs')
  for (const [name, mode] of [
    ['foreign.txt', 0o600],
    ['foreign', 0o700],
  ] as const) {
    chownSync(join(stage.project, name), 54_321, 54_321)
    chmodSync(join(stage.project, name), mode)
  }
  return true
}

async function runIn(stage: Stage, way: Way): Promise<SessionRan> {
  await placeHostileImage(stage, 'machine-root.c')
  const files = [
    { path: '${project}', access: 'write' },
    { path: join(stage.root, 'fixed'), access: 'read' },
  ]
  makeForeign(stage)
  if (way === 'resumed') {
    const took = await stage.ambit(['image', 'warm', '--profile', stage.profile()])
    assert.equal(took.code, 0, describe(took))
  }
  return await stage.session(['/bin/sh', '-c', AGENT], { spec: { files }, timeout: 180_000 })
}

const listen = (server: Server, ...where: [number, string] | [string]): Promise<void> =>
  new Promise((resolve) => server.listen(...(where as [number, string]), resolve))

async function sceneOf(as: As, way: Way): Promise<Scene> {
  let arrived = 0
  const [server, unix] = [0, 1].map(() =>
    createServer((socket) => {
      arrived++
      socket.end('local service')
    }),
  ) as [Server, Server]
  await listen(server, 0, '0.0.0.0')
  const { port } = server.address() as { port: number }
  const own = Object.values(networkInterfaces())
    .flat()
    .find((one) => one?.family === 'IPv4' && !one.internal)
  const places = [
    `127.0.0.1:${port}`,
    `192.0.0.1:${port}`,
    `10.0.2.2:${port}`,
    `${own?.address ?? '10.0.2.15'}:${port}`,
    BESIDE,
  ]
  let other: Beside | undefined
  try {
    other = await machineBeside(as)
    const stage = dress(as, [...places, 'exit'])
    const socket = join(stage.project, 'other.sock')
    await listen(unix, socket)
    chmodSync(socket, 0o777)
    const ran = await runIn(stage, way)
    const path = join(stage.project, 'report.txt')
    assert.ok(existsSync(path), describe(ran))
    const lines = readFileSync(path, 'utf8').trim().split('\n')
    const beside = await other.end()
    return {
      stage,
      ran,
      places,
      arrived,
      beside,
      report: new Map(lines.map((line) => line.split(': ') as [string, string])),
    }
  } catch (error) {
    await other?.end()
    throw error
  } finally {
    server.close()
    unix.close()
  }
}

const scenes = {
  booted: once((as: As) => sceneOf(as, 'booted')),
  resumed: once((as: As) => sceneOf(as, 'resumed')),
}

/** Steps of root's whose answer is no refusal. */
const passed = (report: ReadonlyMap<string, string>, names: readonly string[]): string[] =>
  names.filter((name) => !/^E[A-Z]+$/.test(report.get(name) ?? 'not tried'))

for (const way of WAYS)
  attackIn(missing)('C-51', `root in the guest writes nothing that is read-only, ${way}`, async (as) => {
    const { stage, ran, report } = await scenes[way](as)
    for (const name of ['uid', 'remount', 'control write', 'socket there', 'done'])
      assert.equal(report.get(name), 'ok', `control: ${name}\n${describe(ran)}`)
    const refused = [
    'write', 'create', 'chmod', 'chown', 'truncate', 'times', 'attribute', 'unlink', 'rename', 'rename out', 'rename in',
    'link out', 'mkdir', 'symlink', 'hidden', 'hidden made', 'hidden by name', 'protected', 'up', 'link followed', 'device',
    'disk', 'disk then', 'socket', ...(process.getuid?.() === 0 ? ['foreign read', 'foreign file', 'foreign write', 'foreign mode'] : []),
  ] // biome-ignore format: a list of names
    assert.deepEqual(passed(report, refused), [], JSON.stringify([...report]))
    const fixed = join(stage.root, 'fixed')
    assert.deepEqual(readdirSync(fixed), ['fixed.txt'])
    assert.equal(readFileSync(join(fixed, 'fixed.txt'), 'utf8'), 'as it was')
    assert.equal(statSync(join(fixed, 'fixed.txt')).mode & 0o7777, 0o644)
    assert.equal(statSync(join(stage.project, 'open.txt')).mode & 0o6000, 0, 'no set-uid file on the host')
    assert.deepEqual(readdirSync(join(stage.project, '.git/hooks')), [])
    // The view takes the session's own uid for an answer, and gives nothing away.
    if (process.getuid?.() === 0) assert.equal(statSync(join(stage.project, 'foreign.txt')).uid, 54_321)
    assert.ok(!existsSync(join(stage.project, 'sub/.env')))
    const events = await stage.events()
    const [image] = events.filter((event) => event.ambit.kind === 'machine.image')
    assert.equal(/"snapshot":"[0-9a-f]{64}"/.test(JSON.stringify(image)), way === 'resumed', 'how it started')
    const denied = events.filter((event) => event.ambit.kind === 'file.denied')
    assert.ok(denied.length >= 10, `${denied.length} refusals of the host’s side on record`)
    return `${refused.length} attempts of root refused by the host's side`
  })

for (const way of WAYS)
  attackIn(missing)(
    'C-52',
    `root in the guest finds no device and no way but its own, ${way}`,
    async (as) => {
      const { stage, report, places, arrived, beside, ran } = await scenes[way](as)
      const words = (name: string): string[] =>
        (report.get(name) ?? '').trim().split(' ').filter(Boolean).sort()
      // Network, block, console, entropy, balloon (VIRTIO 1.2, section 5).
      const contract = ['0x0001', '0x0002', '0x0003', '0x0004', '0x0005']
      assert.deepEqual(words('virtio devices'), contract, describe(ran))
      assert.deepEqual(words('ports'), ['ambit.control', 'ambit.io', 'ambit.view'])
      assert.deepEqual(words('pci'), [])
      assert.equal(report.get('pci by port'), 'none')
      assert.equal(report.get('vmware port'), 'none')
      assert.deepEqual(
        words('firmware files').filter((name) => /opt\/|\/home|ambit/.test(name)),
        [],
      )
      assert.ok(words('firmware files').length > 0, 'control: the firmware interface answers')
      assert.deepEqual(passed(report, ['share 9p', 'share virtiofs', 'vsock', 'udp']), [])
      places.forEach((place, at) => {
        assert.ok(!report.get(`dial ${at}`)?.includes('local service'), `${place} answers`)
        assert.equal(report.get(`knock as loopback ${at}`), 'none', place)
        assert.equal(report.get(`knock as the gate's ${at}`), 'none', place)
      })
      assert.equal(report.get('knock 1'), 'taken', 'control: a knock on the gate is heard, as on any address')
      assert.equal(arrived, 0, 'connections at the host’s own port')
      assert.equal(report.get('question'), 'answered', 'control: a datagram of root’s own making arrives')
      for (const name of ['shout', 'shout to all', 'call']) assert.equal(report.get(name), 'none')
      const asked = (await stage.events()).filter(({ ambit }) => ambit.kind.startsWith('dns.'))
      assert.match(JSON.stringify(asked), /root\.test/, 'control: its own gate has it on record')
      assert.deepEqual(beside, [], 'what came to the machine beside it')
      return '5 virtio devices, 3 ports, no PCI, share, vsock; forged packets unanswered, another machine hears none'
    },
  )

const life = (title: string, as: As, body: () => Promise<void>): void => {
  test(`microvm: ${title}, as ${as}`, { skip: missing ?? unavailable(as) ?? false }, body)
}

life('a guest that says it ended is over, whatever runs in it', 'user', async () => {
  const { stage, ran } = await scenes.booted('user')
  assert.equal(ran.code, 0, describe(ran))
  assert.equal(ran.summary.outcome, 'ended')
  const kinds = (await stage.events()).map((event) => event.ambit.kind as string)
  assert.ok(kinds.includes('session.end') && kinds.includes('file.write'), kinds.join())
})

life(
  'a guest that sends no FUSE has no session any more, and what it did stays on record',
  'user',
  async () => {
    const stage = dress('user', ['stream'])
    const ran = await runIn(stage, 'booted')
    assert.equal(ran.code, 125, describe(ran))
    const lines = ran.stderr.trim().split('\n')
    assert.equal(lines.length, 1, describe(ran))
    assert.match(ran.stderr, /^ambit: session \S+ killed: the file view ended: the guest spoke no FUSE: /)
    const kinds = (await stage.events()).map((event) => event.ambit.kind as string)
    assert.ok(kinds.includes('session.end') && kinds.includes('process.launch'), kinds.join())
  },
)
