/** A host that acts between the steps of a script in the view. */
import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { inView, own, type World } from './harness.ts'

/** Shorter than any lifetime in the kernel's caches, longer than a busy machine needs. */
const SOON = 0.7

/** `turn(n)` tells the host to take its nth turn and waits until it has; `soon(want)` waits for the view to show it. */
const TURNS = `
def turn(n):
    put('0/ready-%d' % n, '')
    while not os.path.exists('0/done-%d' % n): time.sleep(0.005)
def soon(look, want):
    end = time.monotonic() + ${SOON}
    while True:
        try: seen = look()
        except OSError as error: seen = errno.errorcode[error.errno]
        if seen == want or time.monotonic() > end: return seen
        time.sleep(0.005)
# Into the kernel's caches, also what is not there.
def warm(path):
    for _ in range(2):
        for top, dirs, files in os.walk(path):
            for name in files: os.stat(os.path.join(top, name)), get(os.path.join(top, name))
`

/** Runs `script` in the view; before each `turn(n)` returns, `turns[n]` is done on the host. */
export async function withHost(world: World, turns: readonly (() => void)[], script: string) {
  const root = world.root(0)
  let next = 0
  const timer = setInterval(() => {
    if (!existsSync(join(root, `ready-${next}`))) return
    turns[next]?.()
    own(root)
    writeFileSync(join(root, `done-${next++}`), '')
  }, 5)
  try {
    return await inView(world, TURNS + script)
  } finally {
    clearInterval(timer)
  }
}
