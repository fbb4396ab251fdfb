/** However `ambit run` is called, a warm start says, returns and records what a cold one does. */
import assert from 'node:assert/strict'
import { statSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { eventually } from '../support/processes.ts'
import { describe, type Ran, Stage } from '../support/stage.ts'
import { type As, unavailable } from '../support/users.ts'

interface Call {
  /** Run by bash; `ambit_run` is `ambit run --yes --summary FILE` of the stage's profile. */
  readonly script: string
  /** Such a caller is served by a host; null where it depends on who calls. */
  readonly warm: boolean | null
  /** A word of stdout: the call did what it is here for. */
  readonly shows: RegExp
}

const INSIDE =
  'grep -E "^(Sig(Ign|Blk)|NoNewPrivs|Seccomp|Cap|Groups|Cpus)" /proc/self/status; cat /proc/self/limits; ' +
  'cat /proc/self/oom_score_adj; ls /proc/self/fd /dev/shm; umask; nice; pwd; env | sort'

const CALLS: Readonly<Record<string, Call>> = {
  'what a process inside finds itself to be': {
    script: `ambit_run sh -c '${INSIDE}' </dev/null`,
    warm: true,
    shows: /NoNewPrivs:\s*1/,
  },
  'ignored signals, another umask, another descriptor': {
    script: `trap '' HUP INT QUIT PIPE; umask 027; ambit_run sh -c '${INSIDE}' 9</etc/hostname </dev/null`,
    warm: true,
    shows: /SigIgn:\s*0{16}/,
  },
  'no terminal and no session of its own': {
    script: 'nohup setsid -w env TERM=dumb bash -c "ambit_run echo here" </dev/null; echo $?',
    warm: true,
    shows: /here\n0/,
  },
  'in the background of a shell': { script: 'ambit_run echo here & wait $!; echo $?', warm: true, shows: /here\n0/ },
  'nobody reads the summary': {
    script: 'ambit_run sh -c "sleep 0.2; echo here; exit 3" 2> >(head -c 1 >/dev/null); echo $?; cut -c 1-12 $SUMMARY',
    warm: true,
    shows: /here\n3\n\{/,
  },
  'nobody reads the output': {
    script: 'ambit_run sh -c "sleep 0.2; echo one; sleep 0.2; echo two 2>/dev/null; exit 4" | head -n 1; echo ${PIPESTATUS[*]}',
    warm: true,
    shows: /one\n4 0/,
  },
  'closed stdin': { script: 'ambit_run cat <&-; echo $?', warm: false, shows: /0\n/ },
  'closed stdout': { script: 'ambit_run true >&-; echo $?', warm: false, shows: /0\n/ },
  'closed stderr': { script: 'ambit_run echo here 2>&-; echo $?', warm: false, shows: /here\n0/ },
  'a directory that is gone': {
    script: 'mkdir gone; cd gone; rmdir ../gone; ambit_run true; echo $?; cd ..',
    warm: false,
    shows: /\d/,
  },
  'a directory whose path does not lead there any more': {
    script: 'top=$PWD; mkdir -p shut/in; cd shut/in; chmod 0 ..; ambit_run echo here; echo $?; chmod 700 "$top/shut"',
    warm: null,
    shows: /\d/,
  },
  'many and long variables and arguments': {
    script:
      'for i in $(seq 60); do export "LONG_$i=$(head -c 20000 /dev/zero | tr "\\0" x)"; done; ' +
      'ambit_run sh -c \'echo "${#1} ${LONG_1-unset}"\' sh "$(head -c 100000 /dev/zero | tr "\\0" y)"; echo $?',
    warm: true,
    shows: /100000 unset\n0/,
  },
  'a variable that is no UTF-8': { script: "ODD=$'\\xff\\xfe' ambit_run echo here; echo $?", warm: false, shows: /here\n0/ },
  'an argument that is no UTF-8': { script: "ambit_run echo $'a\\xffb' | od -c; echo $?", warm: false, shows: /a/ },
  'odd surroundings': {
    script: "TMPDIR=/nonexistent LC_ALL=tr_TR.UTF-8 TZ=Asia/Kathmandu NO_COLOR=1 SHELL=/x ambit_run sh -c 'date +%Z; locale 2>&1 | head -n 1'; echo $?",
    warm: true,
    shows: /0\n$/,
  },
  'no HOME': { script: 'unset HOME; ambit_run sh -c "cd; pwd"; echo $?', warm: true, shows: /\d/ },
  'help': { script: '$AMBIT run --help; echo $?', warm: false, shows: /exit status/ },
  'a usage error': { script: '$AMBIT run --yes; echo $?', warm: true, shows: /[1-9]/ },
} // biome-ignore format: a table

const socketOf = (stage: Stage): number | null =>
  statSync(join(stage.ambitHome, 'run/session.sock'), { throwIfNoEntry: false })?.ino ?? null

const RUN =
  'ambit_run() { "$AMBIT" run --yes --profile "$PROFILE" --summary "$SUMMARY" -- "$@"; }; export -f ambit_run; '

const call = (stage: Stage, script: string, env: Record<string, string>): Promise<Ran> =>
  stage.command(['bash', '-c', RUN + script], { env, cwd: stage.workspace })

/** Ids, placeholders, numbers of pipes and sizes of the log differ from session to session. */
const plain = ({ code, signal, stdout, stderr }: Ran): object => {
  const same = (text: string): string =>
    text
      .replaceAll(/s[0-9a-z]{8}-[0-9a-z]{6}/g, 'SESSION')
      .replaceAll(/ambit-\d{20,}/g, 'PLACEHOLDER')
      .replaceAll(/\d+ events in the log/g, 'EVENTS')
  return { code, signal, stdout: same(stdout), stderr: same(stderr) }
}

/** What is on record of each session, oldest first: kinds, outcomes and targets, in an order that does not depend on chance. */
async function records(stage: Stage): Promise<string[]> {
  const sessions = new Map<string, string[]>()
  for (const event of await stage.events()) {
    const { session } = event.unmapped?.ambit ?? event.ambit ?? {}
    if (typeof session !== 'string') continue
    const line = [event.class_uid, event.activity_id, event.status_id, event.disposition_id].join(' ')
    sessions.set(session, [...(sessions.get(session) ?? []), line])
  }
  return [...sessions.values()].map((lines) => lines.toSorted().join('\n'))
}

for (const as of ['user', 'root'] as const satisfies readonly As[]) {
  test(`${as}: calls of every kind, warm and cold`, { skip: unavailable(as) ?? false }, async (t) => {
    const stage = new Stage(as)
    stage.put(stage.root, { 'workspace/': '' })
    const first = await stage.session(['true'])
    assert.equal(first.code, 0, describe(first))
    const env = {
      AMBIT: stage.product.ambit,
      PROFILE: stage.profile(),
      SUMMARY: join(stage.outside, 'alike.json'),
    }
    let before = (await records(stage)).length
    for (const [name, { script, warm, shows }] of Object.entries(CALLS)) {
      await t.test(name, async () => {
        assert.ok(await eventually(() => socketOf(stage) !== null, 30_000), 'no session host came up')
        const waiting = socketOf(stage)
        const one = await call(stage, script, env)
        const was = socketOf(stage) !== waiting
        // Node reads it at its start: always a cold one.
        const other = await call(stage, script, { ...env, NODE_NO_WARNINGS: '1' })
        if (warm !== null) assert.equal(was, warm, describe(one))
        assert.match(one.stdout, shows, describe(one))
        assert.deepEqual(plain(one), plain(other))
        const recorded = (await records(stage)).slice(before)
        before += recorded.length
        assert.ok(recorded.length === 0 || recorded.length === 2, 'one of them is on record')
        assert.equal(recorded[0], recorded[1])
      })
    }
    stage.dispose()
  })
}
