/** F-17: where an order to narrow could fail to hold: second names of a file, roots within roots. */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { constants } from 'node:os'
import { join } from 'node:path'
import { attack } from '../support/case.ts'
import { meanwhile } from '../support/meanwhile.ts'
import { describe, Stage } from '../support/stage.ts'

const SECRET = 'the content that is taken away'

const narrow = async (stage: Stage, id: string, ...rules: readonly string[][]): Promise<void> => {
  for (const rule of rules) {
    const ran = await stage.ambit(['narrow', id, ...rule])
    assert.equal(ran.code, 0, describe(ran))
  }
}

const SECOND_NAMES = `
os.link('secret.txt', 'second.txt'); os.link('kept.txt', 'other.txt')
fd = os.open('second.txt', os.O_RDONLY)
mapped = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
writing = os.open('other.txt', os.O_RDWR)
mapped[:4]; os.pread(fd, 100, 0)
def touch():
    child = os.fork()
    if child == 0:
        mapped[0]; os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1])
tell('ready'); wait('go')
result['read'] = attempt(os.pread, fd, 100, 0), attempt(get, 'second.txt')
result['signal'] = touch()
result['write'] = attempt(os.pwrite, writing, b'evil', 0), attempt(os.ftruncate, writing, 0), attempt(put, 'other.txt')
result['still'] = attempt(os.pread, writing, 100, 0)
`

attack('F-17', 'a handle of a second name goes with the name that the grant loses', async (as) => {
  const files = { 'secret.txt': SECRET, 'kept.txt': 'kept' }
  const stage = new Stage(as, { files })
  const { result, said } = await meanwhile(stage, SECOND_NAMES, (id) =>
    narrow(stage, id, ['hide', 'secret.txt'], ['protect', 'kept.txt']),
  )
  assert.deepEqual(result.read, ['EACCES', 'EACCES'], said)
  assert.equal(result.signal, constants.signals.SIGBUS, said)
  assert.deepEqual(result.write, ['EACCES', 'EACCES', 'EACCES'], said)
  assert.equal(result.still, 'kept', said)
  assert.equal(readFileSync(join(stage.project, 'kept.txt'), 'utf8'), 'kept')
  const free = new Stage(as, { files })
  const control = await meanwhile(free, SECOND_NAMES, async () => undefined)
  assert.deepEqual([control.result.read, control.result.signal], [[SECRET, SECRET], 0], control.said)
  assert.deepEqual((control.result.write as string[])[0], 'ok', control.said)
  return 'EACCES and SIGBUS by the other name, too'
})

const WITHIN = `
deep = os.open('sub/deep/secret.txt', os.O_RDONLY)
one = os.open('sub/kept.txt', os.O_RDWR)
tell('ready'); wait('go')
result['read'] = attempt(get, 'sub/deep/secret.txt'), attempt(os.pread, deep, 100, 0), attempt(os.listdir, 'sub/deep')
result['write'] = attempt(put, 'sub/kept.txt'), attempt(os.pwrite, one, b'evil', 0), attempt(put, 'sub/free.txt')
result['still'] = attempt(get, 'sub/kept.txt')
`

attack('F-17', 'what is taken by its path is taken where another root begins on the way', async (as) => {
  const files = { 'sub/deep/secret.txt': SECRET, 'sub/free.txt': 'free', 'sub/kept.txt': 'one' }
  const roots = [
    { path: '${project}', access: 'write' },
    { path: '${workspace}', access: 'write' },
    { path: '${project}/sub', access: 'write' },
  ]
  const stage = new Stage(as, { files })
  const options = { spec: { files: roots } }
  const taken = await meanwhile(
    stage,
    WITHIN,
    (id) => narrow(stage, id, ['hide', 'sub/deep'], ['protect', 'sub/kept.txt']),
    options,
  )
  for (const got of taken.result.read as string[]) assert.match(got, /^(ENOENT|EACCES|ESTALE)$/, taken.said)
  assert.deepEqual(taken.result.write, ['EACCES', 'EACCES', 'ok'], taken.said)
  assert.equal(taken.result.still, 'one', taken.said)
  const free = new Stage(as, { files })
  const control = await meanwhile(free, WITHIN, async () => undefined, options)
  assert.deepEqual(control.result.read, [SECRET, SECRET, 'ok'], control.said)
  assert.deepEqual(control.result.write, ['ok', 'ok', 'ok'], control.said)
  return 'hidden and protected across the border of a root'
})
