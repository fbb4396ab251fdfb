/** The guest half of a microVM, by hand: the built image in QEMU, the real view, and a driver of the protocol. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import type { AmbitError } from '../../src/lib/errors.ts'
import { keysDir, type Paths } from '../../src/lib/paths.ts'
import { formatPublicKey, loadImageKey } from '../../src/runtime/microvm-image/minisign.ts'
import { type Image, verifyImage } from '../../src/runtime/microvm-image/verify.ts'
import { cannotBoot, type Guest, startGuest, testImage } from '../support/guest.ts'
import { eventually } from '../support/processes.ts'
import { withRootBeside } from '../support/hostile-image.ts'
import { makeWorld } from '../view/harness.ts'

const options = { skip: cannotBoot }
let image: Image
let paths: Paths
let dir = ''
const guests: Guest[] = []

before(async () => {
  if (cannotBoot) return
  dir = mkdtempSync(join(tmpdir(), 'ambit-guest-'))
  ;({ image, paths } = await testImage())
})
after(async () => {
  await Promise.all(guests.map((guest) => guest.stop()))
  if (dir) rmSync(dir, { recursive: true, force: true })
})

async function boot(
  more: {
    viewSpec?: string
    image?: Pick<Image, 'kernel' | 'initramfs' | 'root' | 'commandLine'>
    quiet?: boolean
  } = {},
): Promise<Guest> {
  const guest = await startGuest({ image, dir: mkdtempSync(join(dir, 'vm-')), ...more })
  guests.push(guest)
  return guest
}

test('a command runs in a cell of its own: output, exit code, execs in order', options, async (t) => {
  const guest = await boot()
  t.diagnostic(`hello after ${Math.round(guest.helloAfter)} ms`)
  const script = 'id -u; cat /etc/hostname; echo /proc/[0-9]*; touch /usr/x /x 2>&1; echo late >&2; exit 7'
  const { end, out, err } = await guest.run({ argv: ['bash', '-c', script] })
  assert.deepEqual(end, { ev: 'ended', code: 7 })
  assert.match(
    out,
    /^1000\nambit\n\/proc\/1 \/proc\/2\ntouch: .*Read-only file system\ntouch: .*Read-only file system\n$/,
  )
  assert.equal(err, 'late\n')
  const controls = guest.events.find(({ ev }) => ev === 'ready')?.controls ?? []
  assert.deepEqual(
    controls.filter(({ state }) => state === 'not'),
    [],
  )
  assert.deepEqual(
    guest.events.flatMap(({ ev, fact }) => (ev === 'launch' ? [fact?.path] : [])),
    ['/usr/bin/bash', '/usr/bin/id', '/usr/bin/cat', '/usr/bin/touch'],
  )
})

test('memory that the guest gives up goes back to the host', options, async (t) => {
  const guest = await boot()
  // All of it, touched, then free again.
  const hold = 'import sys; held = b"x" * (160 << 20); print("held", flush=True); sys.stdin.readline()'
  await guest.prepare({ argv: ['bash', '-c', `python3 -c '${hold}'; read; true`] })
  guest.tell({ op: 'exec' })
  await guest.shows(1, 'held')
  const most = guest.resident
  guest.type('\n')
  await eventually(() => guest.resident < most - 100, 30_000)
  t.diagnostic(`${Math.round(most)} MiB, then ${Math.round(guest.resident)}`)
  assert.ok(guest.resident < most - 100, `${most} MiB, and then still ${guest.resident}`)
  guest.type('\n')
  assert.equal((await guest.until(({ ev }) => ev === 'ended')).code, 0)
})

test('a terminal: size, what is typed, a signal to the program in front', options, async () => {
  const guest = await boot()
  await guest.prepare({
    argv: ['bash', '-c', 'stty size; read line; echo "got $line"; stty size; exec sleep 60'],
    terminal: true,
    window: [33, 99],
  })
  guest.tell({ op: 'exec' })
  await guest.shows(1, '33 99')
  guest.tell({ op: 'resize', window: [44, 111] })
  guest.type('hello\r')
  await guest.shows(1, /got hello\r\n44 111/)
  await guest.until(({ fact }) => fact?.path === '/usr/bin/sleep')
  guest.type('\u0003')
  assert.deepEqual(await guest.until(({ ev }) => ev === 'ended'), { ev: 'ended', signal: 2 })
})

test('files through the view: read, refused, written, invalidated', options, async () => {
  const world = makeWorld([
    { files: { 'open.txt': 'shown', '.env': 'SECRET', big: 'x'.repeat(3_000_000) }, hide: ['**/.env'] },
    { access: 'read', files: { fixed: 'as it was' } },
  ])
  try {
    const guest = await boot({ viewSpec: world.specPath })
    const script = [
      'cat open.txt; cat .env 2>&1; wc -c < big; sha256sum big | cut -c1-8',
      'echo new > made; dd if=/dev/zero of=large bs=1M count=2 status=none',
      '(echo over > /ro/fixed) 2>&1; cat /ro/fixed',
      'read; cat open.txt',
    ].join('\n')
    await guest.prepare({
      argv: ['bash', '-c', script],
      cwd: '/work/project',
      mounts: [
        { kind: 'view', root: 0, target: '/work/project' },
        { kind: 'view', root: 1, target: '/ro' },
      ],
    })
    guest.tell({ op: 'exec' })
    await guest.shows(1, 'as it was')
    writeFileSync(join(world.root(0), 'open.txt'), 'changed outside')
    await new Promise((resolve) => setTimeout(resolve, 1200))
    guest.type('\n')
    const end = await guest.until(({ ev }) => ev === 'ended')
    assert.equal(end.code, 0)
    const out = guest.output.get(1) ?? ''
    assert.match(out, /^showncat: .env: No such file or directory\n3000000\n/)
    assert.match(out, /Read-only file system|Permission denied/)
    assert.match(out, /as it waschanged outside$/)
    assert.equal(readFileSync(join(world.root(0), 'made'), 'utf8'), 'new\n')
    assert.equal(readFileSync(join(world.root(0), 'large')).length, 2 << 20)
    assert.equal(readFileSync(join(world.root(1), 'fixed'), 'utf8'), 'as it was')
  } finally {
    world.remove()
  }
})

test('a block of the root image that was exchanged is found when it is read', options, async () => {
  const altered = join(dir, 'altered.erofs')
  copyFileSync(image.root, altered)
  const fd = openSync(altered, 'r+')
  // All but the file system's own first blocks.
  for (let block = 600; block < 6000; block++) writeSync(fd, Buffer.alloc(64, 0x41), 0, 64, block * 4096)
  const guest = await boot({ image: { ...image, root: altered } })
  const failed = guest.run({ argv: ['bash', '-c', 'cat /usr/bin/* > /dev/null'] })
  await assert.rejects(failed, /the guest failed: .*"the root image".*is not what it was built as/)
})

test(
  'an altered kernel, initramfs, root, manifest or signature is refused in one line',
  options,
  async () => {
    const copy = join(dir, 'copy')
    const names = ['vmlinux', 'initramfs.cpio', 'root.erofs', 'manifest.json', 'manifest.json.minisig']
    const refusals: string[] = []
    for (const name of names) {
      cpSync(image.dir, copy, { recursive: true })
      const fd = openSync(join(copy, name), 'r+')
      writeSync(fd, 'X', 120)
      refusals.push(
        await verifyImage(copy, paths).then(
          () => 'started',
          (error: AmbitError) => error.why,
        ),
      )
      rmSync(copy, { recursive: true })
    }
    assert.deepEqual(refusals, [
      'the kernel is not the one that was signed',
      'the initramfs is not the one that was signed',
      'the root is not the one that was signed',
      'manifest.json: its signature does not fit it',
      'manifest.json: its signature does not fit it',
    ])
    cpSync(image.dir, copy, { recursive: true })
    rmSync(join(copy, 'manifest.json.minisig'))
    await assert.rejects(verifyImage(copy, paths), /it is not signed; build it anew/)
    cpSync(image.dir, copy, { recursive: true })
    await assert.doesNotReject(verifyImage(copy, paths), 'control: whole')
    truncateSync(join(copy, 'root.erofs'), 4096)
    await assert.rejects(verifyImage(copy, paths), /the root is not the one that was signed/)
  },
)

test('minisign itself accepts the signature', {
  skip: cannotBoot || (existsSync('/usr/bin/minisign') ? false : 'minisign is not installed'),
}, () => {
  const key = loadImageKey(keysDir(paths))
  assert.ok(key)
  const file = join(dir, 'image.pub')
  mkdirSync(dir, { recursive: true })
  writeFileSync(file, formatPublicKey(key))
  const said = spawnSync('/usr/bin/minisign', ['-V', '-p', file, '-m', join(image.dir, 'manifest.json')], {
    encoding: 'utf8',
  })
  assert.match(said.stdout, /Signature and comment signature verified/, said.stderr)
})

test(
  'root in the guest writes nothing that is read-only or protected, whatever it remounts',
  options,
  async () => {
    const world = makeWorld([
      { files: { open: '', '.env': 'SECRET', kept: 'kept' }, hide: ['**/.env'], protect: ['kept'] },
      { access: 'read', files: { fixed: 'as it was' } },
    ])
    try {
      const guest = await boot({
        viewSpec: world.specPath,
        image: { ...image, initramfs: rootBeside() },
        quiet: false,
      })
      await guest.prepare({ argv: ['sleep', '60'] })
      await guest.says('root: done', 90_000)
      const answers = [...guest.console.matchAll(/root: ([a-z ]+): ([^\r\n]+)/g)].map(([, what, how]) => [
        what,
        how,
      ])
      const {
        uid,
        remount,
        'write control': control,
        ...refused
      } = Object.fromEntries(answers) as Record<string, string>
      assert.deepEqual([uid, remount, control], ['ok', 'ok', 'ok'])
      const { done, ...rest } = refused
      assert.equal(done, 'ok')
      assert.deepEqual(Object.keys(rest).sort(), [
      'chmod', 'create', 'disk', 'hidden', 'link out', 'mkdir', 'protected', 'rename', 'unlink', 'up', 'write',
    ]) // biome-ignore format: a list of names
      assert.deepEqual(
        Object.entries(rest).filter(([, how]) => how === 'ok'),
        [],
      )
      assert.equal(readFileSync(join(world.root(1), 'fixed'), 'utf8'), 'as it was')
      assert.equal(readFileSync(join(world.root(0), 'kept'), 'utf8'), 'kept')
      assert.equal(readFileSync(join(world.root(0), 'open'), 'utf8'), 'root was here')
    } finally {
      world.remove()
    }
  },
)

/** The initramfs with a root shell of sorts as its /init. */
function rootBeside(): string {
  const archive = join(dir, 'with-root.cpio')
  writeFileSync(archive, withRootBeside(image.initramfs, 'guest-root.c'))
  return archive
}
