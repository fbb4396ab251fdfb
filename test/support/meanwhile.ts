/** A session that waits half-way for what its host does. */
import assert from 'node:assert/strict'
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { eventually } from './processes.ts'
import { describe, type SessionOptions, type Stage } from './stage.ts'

/** A session that runs `script` (Python, with `wait(name)` and `tell(name)`), and what the host does meanwhile. */
export async function meanwhile(
  stage: Stage,
  script: string,
  act: (id: string) => Promise<void>,
  options: SessionOptions = {},
): Promise<{ result: Record<string, unknown>; said: string }> {
  stage.put(stage.project, { 'script.py': `${PRELUDE}\n${script}\nprint('RESULT ' + json.dumps(result))\n` })
  mkdirSync(stage.workspace, { recursive: true })
  stage.own()
  const files = [
    { path: '${project}', access: 'write' },
    { path: '${workspace}', access: 'write' },
  ]
  const running = stage.session(['python3', 'script.py', stage.workspace], {
    spec: { files },
    timeout: 120_000,
    ...options,
  })
  const early = running.then((ran) => assert.fail(`it ended before it was ready: ${describe(ran)}`))
  await Promise.race([early, eventually(() => existsSync(join(stage.workspace, 'ready')), 150_000)])
  const listed = await stage.ambit(['sessions', '--json'])
  const [session] = JSON.parse(listed.stdout) as { id: string }[]
  assert.ok(session, describe(listed))
  await act(session.id)
  writeFileSync(join(stage.workspace, 'go'), '')
  const ran = await running
  const line = ran.stdout.split('\n').find((text) => text.startsWith('RESULT '))
  assert.ok(line, describe(ran))
  return { result: JSON.parse(line.slice(7)) as Record<string, unknown>, said: describe(ran) }
}

/** Of every script. */
export const PRELUDE = `
import ctypes, errno, json, mmap, os, signal, sys, threading, time
space = sys.argv[1]
def tell(name): open(os.path.join(space, name), 'w').close()
def wait(name):
    while not os.path.exists(os.path.join(space, name)): time.sleep(0.01)
def attempt(act, *args):
    try:
        value = act(*args)
        return value.decode('latin1') if isinstance(value, bytes) else 'ok'
    except OSError as error:
        return errno.errorcode[error.errno]
def get(path):
    with open(path, 'rb') as file: return file.read()
def put(path):
    with open(path, 'w') as file: file.write('changed')
result = {}
`
