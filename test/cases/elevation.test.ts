/** C-30: programs that the set-user-id bit would make somebody else's, and those that ask for a password. */
import assert from 'node:assert/strict'
import { chmodSync, chownSync, copyFileSync, existsSync, mkdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { attack, once } from '../support/case.ts'
import { play, type Scene } from '../support/scene.ts'
import { Stage, type Step, type Steps } from '../support/stage.ts'
import type { As } from '../support/users.ts'

/** Only root can leave a program that runs as another account. */
const MAY_PLANT = process.getuid?.() === 0

/** Where it lies: in a root of the view, and in one that is a plain mount. */
const PLACES = MAY_PLANT ? ['viewed', 'mounted'] : []

function makeStage(as: As): Stage {
  const stage = new Stage(as)
  const places = PLACES.map((name) => join(stage.root, name))
  for (const place of places) {
    mkdirSync(place)
    copyFileSync('/bin/sh', join(place, 'elevating'))
    // Not an account whose file the session’s own could be.
    chownSync(join(place, 'elevating'), as === 'root' ? 12_345 : 0, 0)
    chmodSync(join(place, 'elevating'), 0o4755)
  }
  const roots = places.map((path, index) => ({ path, access: 'read', ...(index > 0 && { via: 'mount' }) }))
  stage.spec = { ...stage.spec, files: [{ path: '${project}', access: 'write' }, ...roots] }
  return stage
}

const sh = (name: string, cmd: string): Step => ({ name, op: 'sh', cmd })

const attempts = (stage: Stage): Step[] => {
  const own = join(stage.project, 'suid')
  return [
    sh('who', 'id -u'),
    sh('own copy', `cp -L /bin/sh ${own} && chmod 4755 ${own}; ${own} -p -c 'id -u'`),
    ...PLACES.map((name) => sh(name, `${join(stage.root, name, 'elevating')} -p -c 'id -u'`)),
    sh('by password', 'sudo -n id -u; su -c "id -u" </dev/null; grep Cap /proc/self/status'),
  ]
}

const scene = once(async (as: As): Promise<Scene> => await play([makeStage(as), makeStage(as)], attempts))

const idOf = (steps: Steps, name: string): string => String(steps.result(name).value.stdout).trim()
const bitsOf = (stage: Stage): number => {
  const copy = join(stage.project, 'suid')
  return existsSync(copy) ? statSync(copy).mode & 0o6000 : 0
}

attack('C-30', 'elevates nobody by set-user-id, sudo or su', async (as) => {
  const { stage, free, inside, outside } = await scene(as)
  const who = idOf(inside, 'who')
  assert.equal(idOf(inside, 'own copy'), who)
  assert.equal(bitsOf(free), 0o4000, 'control: outside the bit is set')
  assert.equal(bitsOf(stage), 0, 'a program on the host has the bit')
  for (const name of PLACES) {
    assert.equal(idOf(outside, name), as === 'root' ? '12345' : '0', `control: ${name} elevates outside`)
    assert.equal(idOf(inside, name), who, `${name} runs as somebody else`)
  }
  assert.match(inside.result('by password').value.stdout, /CapEff:\s*0+$/m)
  return `uid ${who} stays, no bit kept, ${PLACES.length} planted gain nothing`
})
