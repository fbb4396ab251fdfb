/**
 * An editor on the host watches the project and runs git in it, in each of its directories, while the agent works:
 * nothing that the agent wrote runs there, whether its changes wait for review or land at once.
 */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { existsSync, readdirSync, statSync, watch } from 'node:fs'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { promisify } from 'node:util'
import { describe, Stage } from '../support/stage.ts'
import { type As, identity, unavailable } from '../support/users.ts'

after(() => setTimeout(() => process.exit(), 100).unref())

/**
 * All ways known to us by which a repository makes git run a program on `status`, `log` or `diff`. `$MARK`: what runs.
 * Each on its own: one that is refused does not keep the next from being tried.
 */
const PLANT = `
try() { ( eval "$1" ) 2>/dev/null || true; }
try 'git config core.fsmonitor "$MARK"'
try 'printf "[core]\\n\\tfsmonitor = $MARK\\n" >> .git/config'
try 'git config core.hooksPath "$PWD/myhooks"; mkdir myhooks; cp "$MARK" myhooks/post-index-change'
try 'mkdir -p .git/hooks; cp "$MARK" .git/hooks/post-index-change; cp "$MARK" .git/hooks/fsmonitor-watchman'
try 'git config filter.x.clean "$MARK"; git config diff.x.textconv "$MARK"; git config diff.external "$MARK"'
try 'echo "* filter=x diff=x" > .gitattributes; echo "* filter=x diff=x" > .git/info/attributes'
try 'git config include.path ../inc; printf "[core]\\n\\tfsmonitor = $MARK\\n" > inc'
try 'printf "[core]\\n\\tfsmonitor = $MARK\\n" > .git/config.worktree; git config extensions.worktreeConfig true'
try 'mkdir swap; mv .git swap/.git; cp -r swap/.git .git; printf "[core]\\n\\tfsmonitor = $MARK\\n" >> .git/config'
try 'mv .git/config .git/config.old; printf "[core]\\n\\trepositoryformatversion = 0\\n\\tfsmonitor = $MARK\\n" > .git/config'
try 'git init -q nested && git -C nested config core.fsmonitor "$MARK"'
try 'mkdir -p n2/.git/objects n2/.git/refs; echo "ref: refs/heads/m" > n2/.git/HEAD; printf "[core]\\n\\tfsmonitor = $MARK\\n" > n2/.git/config'
try 'git init -q --bare bare && git -C bare config core.worktree "$PWD" && git -C bare config core.fsmonitor "$MARK" && git -C bare config core.bare false'
try 'mkdir -p b2/objects b2/refs; echo "ref: refs/heads/m" > b2/HEAD; printf "[core]\\n\\tbare = false\\n\\tworktree = $PWD\\n\\tfsmonitor = $MARK\\n" > b2/config'
try 'git init -q store; mkdir gitfile; echo "gitdir: ../store/.git" > gitfile/.git; git -C store config core.fsmonitor "$MARK"'
try 'mkdir -p .git/modules/s; cp -r .git/objects .git/refs .git/HEAD .git/modules/s/; printf "[core]\\n\\tfsmonitor = $MARK\\n" > .git/modules/s/config; mkdir s; echo "gitdir: ../.git/modules/s" > s/.git'
try 'printf "[submodule \\"s\\"]\\n\\tpath = s\\n\\turl = ./s\\n\\tupdate = !$MARK\\n" > .gitmodules'
try 'mkdir -p .git/worktrees/w; echo "$PWD/w/.git" > .git/worktrees/w/gitdir; echo ../.. > .git/worktrees/w/commondir; cp .git/HEAD .git/worktrees/w/; mkdir w; echo "gitdir: ../.git/worktrees/w" > w/.git; printf "[core]\\n\\tfsmonitor = $MARK\\n" > .git/worktrees/w/config.worktree'
try 'mkdir -p evil; echo ../evil > .git/commondir; cp -r .git/objects .git/refs evil/; printf "[core]\\n\\tfsmonitor = $MARK\\n" > evil/config'
try 'mkdir -p .git/modules/s; echo "$PWD/evil" > .git/modules/s/commondir'
try 'mkdir -p .git/remotes .git/branches; echo "URL: ext::$MARK" > .git/remotes/origin; echo "ext::$MARK" > .git/branches/origin'
try 'echo "touch x" > tool.sh; printf "#!/bin/sh\ncat\n$MARK\n" > clean.sh'
echo changed >> tracked.txt
sleep 1
`

/** A script in the project that leaves a mark where no session can write. */
const markScript = (mark: string): string => `#!/bin/sh\ntouch "${mark}"\n`

const run = promisify(execFile)
const LOOKS = [['status', '--short'], ['log', '-1', '-p'], ['diff'], ['fetch', '--all']]

/** Git as an editor runs it: at every change, in the project and in every directory of it, with its defaults. */
class Editor {
  readonly #stage: Stage
  readonly #watcher
  #looking: Promise<void> | null = null
  #again = false
  changes = 0
  looks = 0

  constructor(stage: Stage) {
    this.#stage = stage
    this.#watcher = watch(stage.project, { recursive: true }, () => {
      this.changes++
      this.look()
    })
  }

  look(): void {
    if (this.#looking) this.#again = true
    else
      this.#looking = this.#lookAll().finally(() => {
        this.#looking = null
        if (this.#again) {
          this.#again = false
          this.look()
        }
      })
  }

  async close(): Promise<void> {
    this.#watcher.close()
    while (this.#looking) await this.#looking
    await this.#lookAll()
  }

  async #lookAll(): Promise<void> {
    this.looks++
    const { project, as } = this.#stage
    const options = { ...identity(as), env: this.#stage.environment(), timeout: 10_000 }
    // A repository that makes no sense is an error of git's, not of the editor's.
    for (const dir of [project, ...directories(project)])
      for (const command of LOOKS) await run('git', ['-C', dir, ...command], options).catch(() => undefined)
  }
}

function directories(project: string): string[] {
  const names = readdirSync(project).filter((name) => name !== '.git')
  return names
    .map((name) => join(project, name))
    .filter((path) => statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false)
}

async function makeRepository(as: As): Promise<Stage> {
  const stage = new Stage(as, { files: { 'tracked.txt': 'one\n' } })
  // A filter of the project's own, as repositories with notebooks have one: git runs it whenever it looks at a file.
  stage.put(stage.project, {
    'mark.sh': markScript(join(stage.outside, 'RAN')),
    'clean.sh': '#!/bin/sh\ncat\n',
    '.gitattributes': '*.txt filter=own\n',
  })
  await stage.command(['chmod', '755', 'mark.sh', 'clean.sh'])
  const script =
    'git init -q . && git config user.name t && git config user.email t@t && git config filter.own.clean ./clean.sh && git add . && git commit -qm one'
  const made = await stage.command(['/bin/sh', '-c', script])
  assert.equal(made.code, 0, describe(made))
  return stage
}

const plant = (stage: Stage): string[] => [
  '/bin/sh',
  '-c',
  `cd ${stage.project}; MARK=${stage.project}/mark.sh; ${PLANT}`,
]

for (const as of ['user', 'root'] as const)
  for (const access of ['review', 'write'] as const)
    test(`git beside a session (${access}) runs nothing that the session wrote, as ${as}`, {
      skip: unavailable(as) ?? false,
    }, async () => {
      const stage = await makeRepository(as)
      const editor = new Editor(stage)
      const ran = await stage.session(plant(stage), { spec: { files: [{ path: '${project}', access }] } })
      await editor.close()
      assert.equal(ran.code, 0, describe(ran))
      assert.ok(editor.looks > 0)
      if (access === 'write') assert.ok(editor.changes > 0, 'the changes land at once, and were seen')
      assert.equal(existsSync(join(stage.outside, 'RAN')), false, describe(ran))
    })

test('control: the same without a session runs it', { skip: unavailable('user') ?? false }, async () => {
  const stage = await makeRepository('user')
  const editor = new Editor(stage)
  await stage.command(plant(stage))
  await editor.close()
  assert.equal(existsSync(join(stage.outside, 'RAN')), true)
})

/** A list of a rebase that waits: what stands in it runs when a person goes on. */
const REBASE = `mkdir -p .git/rebase-merge; cd .git/rebase-merge; echo "exec $MARK" > git-rebase-todo
git rev-parse HEAD | tee onto > orig-head; echo refs/heads/main > head-name; : > interactive; : > done; echo 1 | tee end > msgnum`

test('a rebase that an agent left waits for review, and one that it finished leaves nothing', {
  skip: unavailable('user') ?? false,
}, async () => {
  const stage = await makeRepository('user')
  const write = { spec: { files: [{ path: '${project}', access: 'write' }] } }
  const script = `MARK=${stage.project}/mark.sh; ${REBASE}`
  const left = await stage.session(['/bin/sh', '-c', script], write)
  assert.equal(left.code, 0, describe(left))
  assert.equal(existsSync(join(stage.project, '.git/rebase-merge')), false)
  const flagged = left.summary.pending.filter((change) => change.executableConfig)
  assert.ok(flagged.length > 0, JSON.stringify(left.summary.pending))
  const goOn = async () => stage.command(['git', 'rebase', '--continue'], { env: { GIT_EDITOR: 'true' } })
  await goOn()
  assert.equal(existsSync(join(stage.outside, 'RAN')), false)
  // Control: git does run it.
  await stage.command(['/bin/sh', '-c', script])
  await goOn()
  assert.equal(existsSync(join(stage.outside, 'RAN')), true)

  const other = await makeRepository('user')
  const work =
    'echo b > b.txt; git add b.txt; git commit -qm two; echo c > c.txt; git add c.txt; git commit -qm three; ' +
    'GIT_SEQUENCE_EDITOR="sed -i s/^pick/edit/" git rebase -q -i HEAD~2; git commit -q --amend -m two-again; ' +
    'GIT_EDITOR=true git rebase --continue; GIT_EDITOR=true git rebase --continue; git log --format=%s; git status --short'
  const ran = await other.session(['/bin/sh', '-c', work], write)
  assert.match(ran.stdout, /three\ntwo-again\none\n$/, describe(ran))
  assert.deepEqual(ran.summary.pending, [])
})
