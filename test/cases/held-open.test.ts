/** What a session writes and never closes itself, or closes with its last breath. */
import assert from 'node:assert/strict'
import { attack } from '../support/case.ts'
import { describe, Stage } from '../support/stage.ts'

const FILES = 250

/** A burst of new files, all of them open when the process ends. */
const HOLD = `
import os
for i in range(6): os.close(os.open('a%d' % i, os.O_WRONLY | os.O_CREAT))
held = [os.open('held-%03d' % i, os.O_WRONLY | os.O_CREAT) for i in range(${FILES})]
for fd in held: os.write(fd, b'x' * 60000)
os.kill(os.getpid(), 9)
`

attack('A-18', 'files that are open when the session ends are on record as written', async (as) => {
  const stage = new Stage(as)
  const ran = await stage.session(['python3', '-c', HOLD])
  assert.equal(ran.code, 137, describe(ran))
  const written = new Set<string>()
  for (const event of await stage.events()) {
    const text = JSON.stringify(event)
    const name = /held-\d{3}/.exec(text)?.[0]
    if (name && text.includes('file.write')) written.add(name)
  }
  assert.equal(written.size, FILES)
  return `${FILES} of ${FILES} by name`
})
