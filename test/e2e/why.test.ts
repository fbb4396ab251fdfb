/** What a person is told after refusals, by the built command: `ambit why`, and the draft of `ambit run --observe`. */
import assert from 'node:assert/strict'
import { readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { describe, Stage } from '../support/stage.ts'
import { unavailable } from '../support/users.ts'

after(() => setTimeout(() => process.exit(), 100).unref())

const SCRIPT = `
cat .env; cat readable.txt
echo evil > .git/hooks/post-checkout
curl -sS --max-time 20 'https://new.test/up?load' -d x
curl -sS --max-time 20 http://169.254.169.254/latest
true`

test('why names the place and the change; --observe drafts a profile that allows nothing more', {
  skip: unavailable('user') ?? false,
}, async () => {
  const files = { '.env': 'SECRET=outside-only\n', 'readable.txt': 'readable\n', '.git/hooks/': '' }
  // Two roots: the plan's order is not the profile's.
  const spec = {
    files: [
      { path: '${project}', access: 'write' },
      { path: '${workspace}', access: 'write' },
    ],
  }
  const stage = new Stage('user', { files, spec })
  const ran = await stage.session(['/bin/sh', '-c', SCRIPT], { args: ['--observe'] })
  assert.equal(ran.code, 0, describe(ran))
  assert.match(ran.stdout, /^readable$/m)
  assert.doesNotMatch(ran.stdout, /outside-only/, 'it runs as strictly as without --observe')

  const json = await stage.ambit(['why', '--json'])
  const remedies = JSON.parse(json.stdout) as any[]
  const about = (text: string): any => remedies.find(({ target }) => target.includes(text))
  assert.deepEqual(about('/.env').changes, [{ place: 'files[0].hide', yaml: '- "!/.env"' }], json.stdout)
  assert.match(about('/.env').rule, /files\[0\] hide/)
  const record = ran.summary.refusals.find(({ target }) => target.endsWith('/.env'))
  assert.equal(record?.rule, 'files[0]', 'the place in the profile, in the record too')
  assert.deepEqual(about('post-checkout').changes, [])
  assert.match(about('post-checkout').rule, /default list/)
  const rule = '- { host: "new.test", methods: ["POST"], paths: ["/up"] }'
  assert.deepEqual(about('new.test').changes, [{ place: 'network', yaml: rule }])
  assert.deepEqual(about('169.254.169.254').changes, [])

  const text = await stage.ambit(['why', ran.summary.session])
  assert.ok(text.stdout.includes(`network:  ${rule}`), describe(text))
  assert.match(text.stderr, /changes are for .*profile-1\.yaml/)

  const draft = /draft profile: (\S+)/.exec(ran.stderr)?.[1] ?? ''
  assert.equal(statSync(draft, { throwIfNoEntry: false })?.mode.toString(8).slice(-3), '600', describe(ran))
  const checked = await stage.ambit(['profile', 'check', draft])
  assert.equal(checked.code, 0, describe(checked))
  const lines = readFileSync(draft, 'utf8').split('\n')
  assert.ok(lines.includes(`#     ${rule}`), lines.join('\n'))
  const show = async (profile: string) =>
    stage.ambit(stage.run(['/bin/cat', join(stage.project, '.env')], profile))
  const again = await show(draft)
  assert.notEqual(again.code, 0, 'the draft as it stands')
  assert.doesNotMatch(again.stdout, /outside-only/)

  // The person's part: the suggested line, and only what it says.
  const amended = join(stage.outside, 'amended.yaml')
  writeFileSync(amended, lines.join('\n').replace(/^( *)access: write$/m, '$&\n$1hide: ["!/.env"]'))
  const allowed = await show(amended)
  assert.equal(allowed.stdout, 'SECRET=outside-only\n', describe(allowed))
})

test('why asks about the last session, not about a review of it', {
  skip: unavailable('user') ?? false,
}, async () => {
  const spec = { files: [{ path: '${project}', access: 'review' }] }
  const stage = new Stage('user', { files: { 'a.txt': 'a\n', '.git/hooks/': '' }, spec })
  const script = 'echo b > a.txt; echo evil > .git/hooks/post-checkout; true'
  const ran = await stage.session(['/bin/sh', '-c', script])
  const refused = /post-checkout: create: protected/
  assert.match((await stage.ambit(['why'])).stdout, refused, `control: ${describe(ran)}`)
  const applied = await stage.ambit(['review', ran.summary.session, 'apply'])
  assert.equal(applied.code, 0, describe(applied))
  const asked = await stage.ambit(['why'])
  assert.match(asked.stdout, refused, describe(asked))
})
