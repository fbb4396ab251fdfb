/** Random operations: a writable root and a reviewed one must answer as a plain directory does. */
import assert from 'node:assert/strict'
import { cpSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { applyChanges, reviewLayers } from '../../src/view/review.ts'
import { cannotRun, inView, makeWorld, own } from './harness.ts'

const FILES = { a: 'a', b: 'bb', 'd/a': 'da', 'd/b': 'db', 'd/e/a': 'dea', 'e/a': 'ea' }

/** Each name below a directory: its kind, content and permissions, and a file's number of links. */
const TREE = `
def tree(root):
    seen = []
    for base, dirs, files in os.walk(root):
        dirs.sort()
        for name in sorted(dirs + files):
            p = os.path.join(base, name); s = os.lstat(p)
            kind = stat.S_IFMT(s.st_mode)
            content = os.readlink(p) if stat.S_ISLNK(s.st_mode) else get(p) if stat.S_ISREG(s.st_mode) else ''
            seen.append([os.path.relpath(p, root), kind, content, s.st_mode & 0o777, s.st_nlink if stat.S_ISREG(s.st_mode) else 0])
    return seen
`

/** The same operations on all three; stops at the first difference. */
const SCRIPT = `
import random, shutil
random.seed(SEED)
plain = PLAIN
trees = [plain, os.path.abspath('0'), os.path.abspath('1')]
names = ['a', 'b', 'c', 'd', 'e']
def path(): return '/'.join(random.choice(names) for _ in range(random.randint(1, 3)))
${TREE}
def one():
    kind, p, q, n = random.randint(0, 11), path(), path(), random.randint(0, 9000)
    text = random.choice('xyz') * (n % 50)
    return [
      lambda r: put(r + p, text, os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
      lambda r: put(r + p, text, os.O_WRONLY | os.O_APPEND),
      lambda r: put(r + p, text, os.O_WRONLY | os.O_CREAT | os.O_EXCL),
      lambda r: os.mkdir(r + p, 0o755), lambda r: os.unlink(r + p), lambda r: os.rmdir(r + p),
      lambda r: os.rename(r + p, r + q), lambda r: os.rename(r + p, r + q),
      lambda r: os.symlink(q, r + p), lambda r: os.link(r + p, r + q, follow_symlinks=False),
      lambda r: os.truncate(r + p, n % 20), lambda r: os.chmod(r + p, 0o600 + n % 64 if os.path.isfile(r + p) else 0o755),
    ][kind], [kind, p, q]
difference = None
for step in range(STEPS):
    act, told = one()
    # A move by copy breaks hard links: even seeds link files, odd ones move directories.
    if told[0] == 9 and SEED % 2 or told[0] in (6, 7) and SEED % 2 == 0 and os.path.isdir(plain + '/' + told[1]): continue
    got = [attempt(act, root + '/') for root in trees]
    # A directory of the host under review moves by copy: what mv(1) does on EXDEV.
    if got[2] == 'EXDEV' and got[0] == 'ok':
        shutil.copytree(trees[2] + '/' + told[1], trees[2] + '/.moved', symlinks=True)
        shutil.rmtree(trees[2] + '/' + told[1])
        if os.path.isdir(trees[2] + '/' + told[2]): os.rmdir(trees[2] + '/' + told[2])
        os.rename(trees[2] + '/.moved', trees[2] + '/' + told[2])
        got[2] = 'ok'
    # Refused either way.
    if got[2] == 'EXDEV' and got[0] != 'ok': got[2] = got[0]
    if len(set(got)) > 1: difference = ['answers', step, told, got]; break
    if step % 50 == 0 or step == STEPS - 1:
        want = tree(plain)
        for root in trees[1:]:
            have = tree(root)
            strip = (lambda t: [e[:4] for e in t]) if root == trees[2] else (lambda t: t)
            if strip(have) != strip(want):
                difference = ['tree', step, root, [e for e in strip(have) if e not in strip(want)], [e for e in strip(want) if e not in strip(have)]]; break
        if difference: break
result['difference'] = difference
result['final'] = [e[:4] for e in tree(plain)]
`

for (const seed of [1, 2, 3, 4]) {
  test(`random operations answer as on a plain directory (seed ${seed})`, { skip: cannotRun }, async (t) => {
    const world = makeWorld([
      { access: 'write', files: FILES },
      { access: 'review', files: FILES },
    ])
    t.after(() => world.remove())
    const plain = join(world.dir, 'plain')
    cpSync(world.root(0), plain, { recursive: true })
    own(world.dir)
    const script = SCRIPT.replaceAll('SEED', String(seed))
      .replace('PLAIN', JSON.stringify(plain))
      .replaceAll('STEPS', '600')
    const result = await inView(world, script)
    assert.deepEqual(result.difference, null)
    const failed = (await applyChanges(reviewLayers(world.spec))).filter(({ state }) => state !== 'applied')
    assert.deepEqual(failed, [])
    // Mounted once more, to look at the host's tree with the same eyes.
    const host = JSON.stringify(world.root(1))
    const again = await inView(world, `${TREE}result['host'] = [e[:4] for e in tree(${host})]`)
    assert.deepEqual(again.host, result.final, 'applied, the host has what the agent had')
  })
}
