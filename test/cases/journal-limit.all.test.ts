/** A-16 to its end: a session that fills a journal to its limit, which is one gibibyte for everybody, is ended in words. */
import assert from 'node:assert/strict'
import { globSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { after } from 'node:test'
import { attack } from '../support/case.ts'
import { withPeak } from '../support/peak.ts'
import { describe, Stage } from '../support/stage.ts'

after(() => setTimeout(() => process.exit(), 100).unref())

/** A name of one character is six in a record when it has to be escaped, and a path may be made step by step. */
const FLOOD = `
const fs = require('node:fs')
const name = '\\x01'.repeat(250)
const [folder, most] = process.argv.slice(1)
fs.mkdirSync(folder)
process.chdir(folder)
for (let level = 0; level < 40; level++) { fs.mkdirSync(name); process.chdir(name) }
fs.writeFileSync('0', 'x')
for (let n = 0; n < Number(most); n++) fs.renameSync(String(n), String(n + 1))
console.log('flooded')
`

attack(
  'A-16',
  'a journal that reaches 1 GiB ends its session, says so, and what it holds is in the log',
  async (as) => {
    const stage = new Stage(as)
    const flood = (most: number, folder: string) =>
      withPeak(stage.root, () =>
        stage.session([stage.product.node, '-e', FLOOD, folder, String(most)], { timeout: 600_000 }),
      )
    const { value: control } = await flood(20, 'few')
    assert.equal(control.stdout, 'flooded\n', describe(control))
    const { value: ran, mib } = await flood(1_000_000, 'many')
    assert.equal(ran.code, 125, describe(ran))
    assert.equal(ran.stdout, '', 'it did not come to its end')
    // The command may have time for a word of its own about its lost files.
    assert.match(
      ran.stderr,
      /(?:^|\n)ambit: session \S+ \w+: .*it has reached 1073741824 bytes.*; see ambit why \S+\n$/,
    )
    const sizes = globSync('state/sessions/*/journal/*.wal', { cwd: stage.ambitHome }).map(
      (path) => statSync(join(stage.ambitHome, path)).size,
    )
    const largest = Math.max(...sizes)
    assert.ok(largest <= 2 ** 30 && largest > 2 ** 30 - 2 ** 20, `${largest} bytes`)
    const verified = await stage.ambit(['log', 'verify'], { timeout: 300_000 })
    assert.equal(verified.code, 0, describe(verified))
    assert.ok(mib < 1200, `${mib} MiB`)
    return `ended (125) at 1 GiB, ${mib} MiB at most, verified`
  },
)
