/**
 * Runs a Python script inside a view, as an ordinary user: `ambit-view mount` stands for `ambit-launch`. The script's
 * working directory is the mount; root n of the spec is `n/`.
 */
import { spawn, spawnSync } from 'node:child_process'
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import type { Fact } from '../../src/audit/fact.ts'
import { nativeBinary } from '../../src/lib/paths.ts'
import type { ViewRoot, ViewSpec } from '../../src/view/view-spec.ts'

/** Tests run as root use an ordinary account where there is one: `alice`, else 65533. */
function account(): { uid: number; gid: number } {
  const uid = process.getuid?.() ?? 0
  if (uid !== 0) return { uid, gid: process.getgid?.() ?? 0 }
  const line = readFileSync('/etc/passwd', 'utf8')
    .split('\n')
    .find((entry) => entry.startsWith('alice:'))
  const [, , id, group] = line?.split(':') ?? []
  return { uid: Number(id ?? 65533), gid: Number(group ?? 65533) }
}
export const user = account()

export interface World {
  readonly dir: string
  /** Directory of root n on the host. */
  readonly root: (index: number) => string
  readonly spec: ViewSpec
  readonly specPath: string
  readonly mount: string
  remove(): void
}

export type RootOptions = Partial<Pick<ViewRoot, 'access' | 'hide' | 'protect' | 'review' | 'nested'>> & {
  /** Files to begin with. */
  readonly files?: Readonly<Record<string, string>>
}

export function makeWorld(
  roots: readonly RootOptions[],
  quota = { bytes: 1 << 30, inodes: 1_000_000 },
): World {
  const dir = mkdtempSync(join(tmpdir(), 'ambit-view-'))
  chmodSync(dir, 0o755)
  const spec: ViewSpec = {
    version: 1,
    session: 's-test',
    journal: join(dir, 'journal/view.wal'),
    owner: { hostUid: user.uid, hostGid: user.gid, uid: 1000, gid: 1000 },
    quota,
    roots: roots.map((options, index) => ({
      index,
      path: join(dir, `root${index}`),
      access: 'write',
      label: 'internal',
      hide: [],
      protect: [],
      review: [],
      nested: [],
      ...without(options, 'files'),
      upper: options.access === 'review' || options.review ? join(dir, `upper${index}`) : null,
    })),
  }
  const mount = join(dir, 'mount')
  for (const path of [mount, join(dir, 'journal'), ...spec.roots.map(({ path }) => path)]) mkdirSync(path)
  for (const { upper } of spec.roots) if (upper) mkdirSync(upper)
  roots.forEach(({ files = {} }, index) => {
    for (const [name, text] of Object.entries(files)) {
      const path = join(dir, `root${index}`, name)
      mkdirSync(dirname(path), { recursive: true })
      writeFileSync(path, text)
    }
  })
  const specPath = join(dir, 'spec.json')
  writeFileSync(specPath, JSON.stringify(spec))
  own(dir)
  return {
    dir,
    root: (index) => join(dir, `root${index}`),
    spec,
    specPath,
    mount,
    remove: () => rmSync(dir, { recursive: true, force: true }),
  }
}

function without<T extends object, K extends keyof T>(object: T, key: K): Omit<T, K> {
  const { [key]: dropped, ...rest } = object
  void dropped
  return rest
}

/** Gives a tree to the test's user. */
export function own(dir: string): void {
  if (process.getuid?.() !== 0) return
  spawnSync('chown', ['-Rh', `${user.uid}:${user.gid}`, dir])
  chownSync(dir, user.uid, user.gid)
}

/** Lines that every script begins with: `attempt` gives the errno name, or `ok`. */
const PRELUDE = `
import os, sys, errno, json, socket, stat, subprocess, time
def attempt(act, *args):
    try:
        act(*args)
        return 'ok'
    except OSError as error:
        return errno.errorcode[error.errno]
def put(path, text, flags=os.O_WRONLY | os.O_CREAT | os.O_TRUNC):
    fd = os.open(path, flags, 0o644)
    os.write(fd, text.encode())
    os.close(fd)
def get(path):
    with open(path) as file: return file.read()
result = {}
`

/** Runs `script`; what it leaves in the dict `result` comes back. `descriptors` limits the view's open files. */
export async function inView(
  world: World,
  script: string,
  descriptors?: number,
): Promise<Record<string, unknown>> {
  const body = `${PRELUDE}os.chdir(${JSON.stringify(world.mount)})\n${script}\nprint(json.dumps(result))`
  const command = [
    nativeBinary('ambit-view'),
    'mount',
    world.specPath,
    world.mount,
    '--',
    'python3',
    '-c',
    body,
  ]
  if (descriptors) command.unshift('prlimit', `--nofile=${descriptors}:${descriptors}`)
  const child = spawn(command[0] as string, command.slice(1), {
    stdio: ['ignore', 'pipe', 'pipe'],
    uid: user.uid,
    gid: user.gid,
    env: { PATH: process.env.PATH, HOME: world.dir, LANG: 'C.UTF-8' },
    cwd: '/',
  })
  let [out, error] = ['', '']
  child.stdout.on('data', (chunk: Buffer) => (out += chunk.toString()))
  child.stderr.on('data', (chunk: Buffer) => (error += chunk.toString()))
  const code = await new Promise((resolve) => child.once('close', resolve))
  if (code !== 0) throw new Error(`script ended with ${String(code)}: ${error}`)
  return JSON.parse(out.trim().split('\n').at(-1) ?? '{}') as Record<string, unknown>
}

/** The facts in the view's journal. */
export function facts(world: World): Fact[] {
  if (!existsSync(world.spec.journal)) return []
  const bytes = readFileSync(world.spec.journal)
  const list: Fact[] = []
  for (let at = 8; at < bytes.length; ) {
    const length = at + 8 <= bytes.length ? bytes.readUInt32LE(at) : 0
    // A torn record ends what is valid.
    if (length === 0 || at + 8 + length > bytes.length) break
    list.push(JSON.parse(bytes.subarray(at + 8, at + 8 + length).toString()) as Fact)
    at += 8 + length
  }
  return list
}

/** Why the tests of this directory cannot run here, or false. */
export const cannotRun: string | false = !existsSync(nativeBinary('ambit-view'))
  ? 'ambit-view is not built'
  : existsSync('/dev/fuse')
    ? false
    : 'no /dev/fuse'
