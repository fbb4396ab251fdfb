/**
 * An agent's session of an hour (`AMBIT_HOUR_MINUTES`): Codex CLI, unchanged, does what a scripted model says, a turn
 * every few seconds, each with edits under review, files of its own, programs, a request and a refusal. After the
 * warm-up nothing may grow but the record, and the end is as clean as after a second.
 */
import assert from 'node:assert/strict'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { after, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { agents, installShared } from '../support/caches.ts'
import { labMissing } from '../support/lab.ts'
import { mountCount, sizeBelow } from '../support/footprint.ts'
import { goodHost } from '../support/net-stage.ts'
import { commandOf, eventually, processesWith } from '../support/processes.ts'
import { codexArguments, responses } from '../support/scripted-model.ts'
import { checkGrowth, type Sample, sampleOf, writeCa } from '../support/soak.ts'
import { describe, Stage } from '../support/stage.ts'
import type { Answer } from '../support/upstream.ts'

const MINUTES = Number(process.env.AMBIT_HOUR_MINUTES ?? 60)
const LENGTH = MINUTES * 60_000
/** A model thinks before it answers. */
const THINKING_MS = 2500
const SAMPLE_MS = Math.min(30_000, LENGTH / 20)
const missing = agents instanceof Error ? agents.message : null

after(() => setTimeout(() => process.exit(), 100).unref())

/** One turn: what an agent does to a project, and three things that its bounds refuse. */
const turn = (n: number): string => `
set -e
for i in 1 2 3 4 5; do echo "turn ${n} $i" > part-$i.new; mv part-$i.new part-$((${n} % 40)).$i; done
echo "$(date -I),${n}" >> ledger.csv; sed -i 's/^1,.*/1,${n}/' ledger.csv
cp ledger.csv "$AMBIT_WORKSPACE/copy-$((${n} % 40)).csv"; git diff --stat | tail -1
grep -rl "turn ${n} " . | wc -l; python3 -c "print(sum(range(${n})))"
curl -sS --data "turn=${n}" https://good.test/turn/${n}; curl -sS -o /dev/null -w '%{http_code}' https://evil.test/
cat .env ~/.ssh/id_rsa 2>&1 | head -2; echo x 2>/dev/null >> .git/config || echo "done ${n}"`

interface Conversation {
  readonly answer: Answer
  turns: number
  requests: number
}

/** The model speaks in its own time, a sign of life while it thinks; its last word comes when the hour is over. */
function converse(ends: () => boolean): Conversation {
  const conversation = { turns: 0, requests: 0 }
  const answer: Answer = (request, response) => {
    if (request.headers.host === 'good.test') {
      conversation.requests += 1
      return void response.end('taken\n')
    }
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    response.write(': thinking\n\n')
    setTimeout(() => {
      const command = ends() ? undefined : turn(++conversation.turns)
      response.end(responses(command).join(''))
    }, THINKING_MS)
  }
  return Object.assign(conversation, { answer })
}

function makeStage(ca: string): Stage {
  const stage = new Stage('user', {
    files: { 'ledger.csv': '1,2\n', '.env': 'SECRET=1' },
    home: { '.ssh/id_rsa': 'the secret outside' },
  })
  const path = writeCa(stage, ca)
  stage.spec = {
    isolation: { runtime: 'os-sandbox', limits: 'partly', wallclock: '3h' },
    files: [
      { path: '${project}', access: 'review' },
      { path: '${workspace}', access: 'write' },
    ],
    hide: ['**/.env'],
    network: [
      { host: 'model.test', ca: path, methods: ['POST'], paths: ['/v1/*'], credential: 'model' },
      { host: 'good.test', ca: path },
    ],
    // Every turn sends the whole conversation again, as agents do.
    upload: { perRequest: '64MiB', perMinute: '1GiB', perSession: '8GiB' },
    credentials: [
      {
        name: 'model',
        kind: 'header',
        header: 'authorization',
        prefix: 'Bearer ',
        source: 'env:REAL_KEY',
        env: 'MODEL_KEY',
      },
    ],
  }
  return stage
}

const SETUP =
  'git init -q . && git config user.name t && git config user.email t@t && git add ledger.csv && git commit -qm one'

/** Nothing of the session but its record and its changes is left. */
async function checkEnd(stage: Stage, mounts: number): Promise<void> {
  assert.deepEqual(readdirSync(join(stage.ambitHome, 'run/sessions')), [])
  const others = (): string[] =>
    processesWith(stage.root)
      .map(commandOf)
      .filter((command) => command !== '' && !/ambitd\.cjs|\0session-host\0/.test(command))
  assert.ok(await eventually(() => others().length === 0), `still running: ${others().join('\n')}`)
  assert.ok(mountCount() <= mounts, 'something is still mounted')
  const verified = await stage.ambit(['log', 'verify'], { timeout: 300_000 })
  assert.equal(verified.code, 0, describe(verified))
}

test(`an agent works for ${MINUTES} minutes; nothing grows, and the end is clean`, {
  skip: labMissing ?? missing ?? false,
  timeout: LENGTH + 600_000,
}, async (t) => {
  const began = performance.now()
  const model = converse(() => performance.now() - began > LENGTH)
  const { good } = await goodHost(
    (request, response) => {
      // The server keeps what it got; of an hour that is a lot.
      good.requests.length = 0
      model.answer(request, response)
    },
    ['model.test', 'good.test'],
  )
  const stage = makeStage(good.ca)
  const made = await stage.command(['/bin/sh', '-c', SETUP])
  assert.equal(made.code, 0, describe(made))
  const mounts = mountCount()
  const codex = join(installShared(agents), 'node_modules/.bin/codex')
  let run = 0
  let over = false
  const session = stage
    .session([codex, ...codexArguments('model.test', 'do your task')], {
      env: { REAL_KEY: 'sk-of-the-user', PATH: `${dirname(stage.product.node)}:${process.env.PATH}` },
      timeout: LENGTH + 300_000,
      onStart: (pid) => (run = pid),
    })
    .finally(() => (over = true))
  const samples: Sample[] = []
  await sleep(5000)
  while (!over && performance.now() - began < LENGTH) {
    const sample = sampleOf(stage, run)
    samples.push(sample)
    if (samples.length % 10 === 1) console.error(`hour: ${model.turns} turns, ${JSON.stringify(sample)}`)
    await sleep(SAMPLE_MS)
  }
  const ran = await session
  assert.equal(ran.code, 0, describe(ran))
  assert.match(ran.stdout + ran.stderr, /all done/, describe(ran))
  const least = (LENGTH / (THINKING_MS * 4)) | 0
  assert.ok(model.turns > least, `control: ${model.turns} turns`)
  assert.equal(model.requests, model.turns, 'each turn did its work to the end')
  const { summary } = ran
  assert.equal(summary.outcome, 'ended', JSON.stringify(summary).slice(0, 2000))
  assert.ok(summary.commandsTotal > model.turns * 10, `${summary.commandsTotal} commands`)
  const refused = summary.refusals.filter(({ target }) => /evil\.test|\.env$|\.git\/config$/.test(target))
  assert.ok(refused.length >= 3, JSON.stringify(summary.refusals))
  assert.equal(readFileSync(join(stage.project, 'ledger.csv'), 'utf8'), '1,2\n', 'edits wait for review')
  assert.ok(existsSync(join(stage.workspace, 'copy-1.csv')))
  const growth = checkGrowth(samples.filter(({ at }) => at - began >= LENGTH / 3))
  await checkEnd(stage, mounts)
  const journal = sizeBelow(join(stage.ambitHome, 'state/sessions', summary.session, 'journal'))
  // A turn is some fifteen programs, sixty file facts and four requests: of 100 to 600 bytes each.
  assert.ok(journal < model.turns * 128 * 1024, `${journal} bytes of journal for ${model.turns} turns`)
  t.diagnostic(`${model.turns} turns, ${summary.commandsTotal} commands, ${journal >> 10} KiB of journal`)
  t.diagnostic(`growth: ${growth}`)
})
