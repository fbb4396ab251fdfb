/** H: what an agent names its files never becomes what a person's terminal obeys. */
import assert from 'node:assert/strict'
import { join } from 'node:path'
import { attack, once } from '../support/case.ts'
import { describe, Stage } from '../support/stage.ts'
import type { As } from '../support/users.ts'

/** By case: characters that must not reach a terminal, and how they are shown. */
const CHARACTERS: Readonly<Record<string, readonly string[]>> = {
  'H-04': [
    '\u001b[2K',
    '\u001b]0;title\u0007',
    '\u001b]52;c;AAAA\u0007',
    '\u009b31m',
    '\u009d8;;x',
    '\b\b\b',
    '\r',
  ],
  'H-05': ['\u001b[c', '\u001b[6n', '\u001b[?1003h', '\u001b]10;?\u0007'],
  'H-06': ['\u202e', '\u2066', '\u2069'],
  'H-07': ['\u{e0041}', '\u{e007f}'],
  'H-08': ['\u200b', '\u200d', '\u2060', '\ufeff', '\u00ad', '\u034f', '\ufe0f', '\u3164'],
}

const scene = once(async (as: As) => {
  const stage = new Stage(as, {
    files: { 'a.txt': 'a' },
    spec: { files: [{ path: '${project}', access: 'review' }], protect: ['*.locked'] },
  })
  const names = Object.values(CHARACTERS)
    .flat()
    .map((text, index) => `n${index}${text}end`)
  const ran = await stage.inside(
    names.flatMap((name) => [
      { name: `new ${name}`, op: 'write', path: join(stage.project, name), text: 'x' },
      { name: `refused ${name}`, op: 'write', path: join(stage.project, `${name}.locked`), text: 'x' },
    ]),
  )
  for (const name of names) assert.ok(ran.result(`new ${name}`).ok, `control: ${name} can be made`)
  const session = ran.summary.session
  const shown = await Promise.all([
    stage.ambit(['review', session, 'diff']),
    stage.ambit(['review', session]),
    stage.ambit(['why', session]),
    stage.ambit(['log', '--session', session]),
    stage.ambit(['log', '--json', '--session', session]),
  ])
  assert.match(
    shown[0]?.stdout ?? '',
    /n0/,
    `control: the names are shown\n${shown[0] ? describe(shown[0]) : ''}`,
  )
  return shown.map(({ stdout, stderr }) => stdout + stderr).join('\n')
})

/** Without Ambit's own line ends and colours, which it writes only to a terminal. */
for (const [id, texts] of Object.entries(CHARACTERS))
  attack(id, 'is visible wherever a person reads a name', async (as) => {
    const text = await scene(as)
    for (const raw of texts) assert.ok(!text.includes(raw), `${JSON.stringify(raw)} reached the terminal`)
    assert.match(text, /\\x1b|\\u\{202e\}/, 'control: escapes stand in their place')
    return `${texts.length} escaped in review, why and log`
  })
