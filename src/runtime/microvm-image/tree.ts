/** What the packages' scripts would have done, as far as a session needs it; and what the finished tree holds. */
import { makeDir } from '../../lib/make-dir.ts'
import { createHash } from 'node:crypto'
import * as fs from 'node:fs'
import { join } from 'node:path'

/** Places that a session mounts over, or that programs expect to be there. */
const PLACES = [
  'proc',
  'sys',
  'dev',
  'run',
  'tmp',
  'mnt',
  'srv',
  'home',
  'root',
  'opt',
  'var/tmp',
  'var/lib',
  'var/log',
]
/** Names that alternatives give. */
const ALTERNATIVES = { awk: 'gawk', which: 'which.debianutils', pager: 'less', nawk: 'gawk' }

/** Completes an unpacked tree. */
export function finishTree(tree: string): void {
  for (const place of PLACES) makeDir(join(tree, place), 0o777)
  for (const [name, target] of Object.entries(ALTERNATIVES)) {
    const path = join(tree, 'usr/bin', name)
    fs.rmSync(path, { force: true })
    fs.symlinkSync(target, path)
  }
  for (const name of ['passwd', 'group'])
    fs.copyFileSync(join(tree, `usr/share/base-passwd/${name}.master`), join(tree, 'etc', name))
  fs.copyFileSync(join(tree, 'usr/share/libc-bin/nsswitch.conf'), join(tree, 'etc/nsswitch.conf'))
  makeDir(join(tree, 'etc/ssl/certs'), 0o777)
  fs.writeFileSync(join(tree, 'etc/ssl/certs/ca-certificates.crt'), certificates(tree))
  clearSetId(tree)
}

function certificates(tree: string): string {
  const dir = join(tree, 'usr/share/ca-certificates/mozilla')
  const files = fs.readdirSync(dir).filter((name) => name.endsWith('.crt'))
  return files
    .sort()
    .map((name) => fs.readFileSync(join(dir, name), 'utf8'))
    .join('')
}

/** Nothing in a cell gains privileges; and umask, or who builds, must not show. */
function clearSetId(tree: string): void {
  for (const { path, stat } of walk(tree)) {
    if (stat.isSymbolicLink()) continue
    const mode = stat.isDirectory() || stat.mode & 0o100 ? 0o755 : 0o644
    if ((stat.mode & 0o7777) !== mode) fs.chmodSync(join(tree, path), mode)
  }
}

/** Programs in the tree and their SHA-256, hex: the host's answer to what ran in a guest. */
export function measurePrograms(tree: string): Record<string, string> {
  const found = [...walk(tree)].filter(({ stat }) => stat.isFile() && stat.mode & 0o111)
  const digests = found.map(({ path }): [string, string] => [
    `/${path}`,
    createHash('sha256')
      .update(fs.readFileSync(join(tree, path)))
      .digest('hex'),
  ])
  return Object.fromEntries(digests)
}

/** Everything below `tree`, sorted, by its path there. */
function* walk(tree: string, below = ''): Generator<{ path: string; stat: fs.Stats }> {
  for (const name of fs.readdirSync(join(tree, below)).sort()) {
    const path = below === '' ? name : `${below}/${name}`
    const stat = fs.lstatSync(join(tree, path))
    yield { path, stat }
    if (stat.isDirectory()) yield* walk(tree, path)
  }
}
