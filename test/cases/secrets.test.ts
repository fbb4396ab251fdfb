/** the record is read by many and kept for years. What passes by as a secret enters none of it. */
import assert from 'node:assert/strict'
import { readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { attack } from '../support/case.ts'
import { describe, Stage, type Step } from '../support/stage.ts'

const canary = (name: string): string => `kept-${name}-7f3a91c2d84e`
/** Known by its shape alone. */
const SHAPED = 'ghp_0123456789abcdefKEPTshaped0123456789'
const PEM = '-----BEGIN PRIVATE KEY-----\nkept-pem-7f3a91c2d84e\n-----END PRIVATE KEY-----'

/** Command lines, each with one secret and the word `seen`, which belongs on record. */
const COMMANDS: readonly (readonly string[])[] = [
  ['/bin/echo', 'seen-option', '--token', canary('option')],
  ['/bin/echo', 'seen-joined', `--api-key=${canary('joined')}`],
  ['/bin/echo', 'seen-header', '-H', `Authorization: Bearer ${canary('header')}`],
  ['/bin/echo', 'seen-userinfo', `https://name:${canary('userinfo')}@host.test/`],
  ['/bin/echo', 'seen-shape', SHAPED],
  ['/bin/echo', 'seen-pem', PEM],
  [
    '/bin/sh',
    '-c',
    `: seen-shell; DATABASE_PASSWORD=${canary('shell')} /bin/true --password ${canary('word')}`,
  ],
]

/** Refused and recorded: the name is in no rule. */
const URL = `https://nowhere.test/seen-url?page=2&api_key=${canary('key')}&access_token=${canary('access')}&sig=${canary('sig')}`
const HEADERS = {
  authorization: `Bearer ${canary('bearer')}`,
  'x-api-key': canary('foreign'),
  cookie: `session=${canary('cookie')}`,
}

attack('A-17', 'no secret that passes by enters a record or stays in a file', async (as) => {
  const stage = new Stage(as, { files: { 'a.txt': 'a' } })
  const steps: Step[] = [
    ...COMMANDS.map((argv, at) => ({ name: `command ${at}`, op: 'exec', argv })),
    { name: 'url', op: 'http', url: URL, method: 'POST', headers: HEADERS, body: canary('body') },
    { name: 'environment', op: 'sh', cmd: 'env', env: { SERVICE_SECRET: canary('environment') } },
  ]
  const env = { AWS_SECRET_ACCESS_KEY: canary('outside') }
  const ran = await stage.inside(steps, { env })
  for (const [at, argv] of COMMANDS.slice(0, -1).entries())
    assert.equal(ran.result(`command ${at}`).value.stdout, `${argv.slice(1).join(' ')}\n`, 'control: it ran')
  assert.match(ran.result('environment').value.stdout, /kept-environment/, 'control: inside it is there')
  // The command of the session itself: on the sheet, in the session's files, in its first record.
  const own = await stage.session(['/bin/echo', 'seen-own', `--password=${canary('own')}`], { env })
  assert.equal(own.code, 0, describe(own))
  const why = await stage.ambit(['why', ran.summary.session])
  const told = [JSON.stringify(await stage.events()), why.stdout + why.stderr, ran.stderr + own.stderr]
  const files = [stage.ambitHome, stage.outside, stage.home].flatMap(filesBelow)
  const kept = files.map((path) => [path, readFileSync(path, 'latin1')] as const)
  const all = [...kept.map(([, text]) => text), ...told].join('\n')
  for (const word of ['option', 'joined', 'header', 'userinfo', 'shape', 'pem', 'shell', 'url', 'own'])
    assert.ok(all.includes(`seen-${word}`), `control: seen-${word} is on record`)
  const found = (text: string): string[] => text.match(/kept-[a-z]+-7f3a91c2d84e|KEPTshaped/g) ?? []
  assert.deepEqual(
    kept.filter(([, text]) => found(text).length > 0).map(([path, text]) => [path, found(text)]),
    [],
  )
  assert.deepEqual(told.flatMap(found), [])
  return `15 secrets in words, heads and variables; ${files.length} files and the log hold none`
})

function filesBelow(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name)
    if (entry.isDirectory()) return filesBelow(path)
    // The image of a machine is nothing of a session's.
    return entry.isFile() && !path.includes('/images/') && statSync(path).size < 1 << 28 ? [path] : []
  })
}
