/** A supervisor that is killed while the agent has the terminal leaves it as it was, and one line, warm and cold. */
import assert from 'node:assert/strict'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { warmed } from '../support/runs.ts'
import { describe, Stage } from '../support/stage.ts'
import { unavailable } from '../support/users.ts'

after(() => setTimeout(() => process.exit(), 100).unref())

/** argv: the directory of the sessions, and what to run. Prints the settings, and how it ended. */
const DRIVER = `
import glob, json, os, pty, signal, sys, termios, time
sessions, command = sys.argv[1], sys.argv[2:]
pid, terminal = pty.fork()
if pid == 0: os.execv(command[0], command)
def settings(): return termios.tcgetattr(terminal)[:4]
def hear(until):
    said, end = b'', time.time() + 40
    while until not in said and time.time() < end:
        try: said += os.read(terminal, 4096)
        except OSError: break
    return said.decode(errors='replace')
before = settings()
hear(b'it-' + b'runs')
inside = settings()
newest = sorted(glob.glob(sessions + '/*/session.json'))[-1]
os.kill(json.load(open(newest))['pid'], signal.SIGKILL)
said = hear(b'[ERR_' + b'INTERNAL]')
_, status = os.waitpid(pid, 0)
print(json.dumps({'before': before, 'inside': inside, 'after': settings(), 'code': os.waitstatus_to_exitcode(status), 'said': said}))
`

for (const warm of [false, true])
  test(`a killed supervisor gives the terminal back, ${warm ? 'warm' : 'cold'}`, {
    skip: unavailable('user') ?? false,
  }, async () => {
    const stage = new Stage('user')
    stage.put(stage.outside, { 'driver.py': DRIVER })
    if (warm) await warmed(stage)
    const ran = await stage.command([
      '/usr/bin/python3',
      join(stage.outside, 'driver.py'),
      join(stage.ambitHome, 'state/sessions'),
      stage.product.ambit,
      ...stage.run(['/bin/sh', '-c', 'echo it-runs; exec sleep 60'], stage.profile()),
    ])
    assert.equal(ran.code, 0, describe(ran))
    const { before, inside, after, code, said } = JSON.parse(ran.stdout)
    assert.notDeepEqual(inside, before, 'control: the terminal was raw')
    assert.deepEqual(after, before)
    assert.equal(code, 125)
    const who = warm ? 'its host' : 'its supervisor'
    assert.match(
      said,
      new RegExp(`^ambit: session: ${who} was killed; nothing of it runs any more; see: `, 'm'),
    )
  })
