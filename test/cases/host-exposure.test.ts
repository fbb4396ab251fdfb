/** C-55: how exposed Ambit's own host processes are, scored as `systemd-analyze security` scores services. */
import assert from 'node:assert/strict'
import { readdirSync, readFileSync, statSync } from 'node:fs'
import { attack } from '../support/case.ts'
import { kernelsAndTpmsOf } from '../support/kernels.ts'
import { eventually } from '../support/processes.ts'
import { PATIENCE, RUNTIME } from '../support/runtime.ts'
import { describe, Stage } from '../support/stage.ts'
import type { As } from '../support/users.ts'

interface Check {
  readonly weight: number
  readonly holds: (pid: string, as: As) => boolean | null
}

const text = (pid: string, file: string): string => {
  try {
    return readFileSync(`/proc/${pid}/${file}`, 'utf8')
  } catch {
    return ''
  }
}
const field = (pid: string, name: string): string =>
  new RegExp(`^${name}:\\s*(.*)$`, 'm').exec(text(pid, 'status'))?.[1] ?? ''

/** Null where the question has no answer for that user. */
const CHECKS: Readonly<Record<string, Check>> = {
  'no new privileges': { weight: 2, holds: (pid) => field(pid, 'NoNewPrivs') === '1' },
  'system calls filtered': { weight: 2, holds: (pid) => field(pid, 'Seccomp') === '2' },
  // Root's own session needs root's rights to its files until they are handed over.
  'no capabilities on the host': {
    weight: 2,
    holds: (pid, as) => (as === 'root' ? null : /^0+$/.test(field(pid, 'CapEff')) || inOwnUserNamespace(pid)),
  },
  'no core file': {
    weight: 1,
    holds: (pid) => /^Max core file size\s+[01]\s+[01]\s/m.test(text(pid, 'limits')),
  },
  'not to be looked into': {
    weight: 1,
    holds: (pid, as) => (as === 'root' ? null : statSync(`/proc/${pid}/fd`).uid !== uidOf(pid)),
  },
  'nothing of the caller’s environment': { weight: 1, holds: (pid) => !text(pid, 'environ').includes(MARK) },
  'private files by default': { weight: 1, holds: (pid) => field(pid, 'Umask') === '0077' },
}

const MARK = 'AMBIT_CASE_OF_EXPOSURE'
const uidOf = (pid: string): number => Number(field(pid, 'Uid').split(/\s+/)[0])
const parentOf = (pid: string): string => field(pid, 'PPid')
const inOwnUserNamespace = (pid: string): boolean =>
  !/^\s*0\s+0\s+4294967295$/m.test(text(pid, 'uid_map')) && text(pid, 'uid_map') !== text('self', 'uid_map')

/** Of ten, the least that each may score for an ordinary user. */
const THRESHOLDS = { 'ambit-view': 9, 'ambit-launch': 7, ambitd: 6, supervisor: 4 } as const
/** The same of each process that is part of the kernel of a session: Sentry, Gofer, QEMU and its TPM. */
const KERNEL_THRESHOLD = 8

function score(pid: string, as: As): { points: number; lacks: string[] } {
  const asked = Object.entries(CHECKS).map(([name, { weight, holds }]) => ({
    name,
    weight,
    held: holds(pid, as),
  }))
  const counted = asked.filter(({ held }) => held !== null)
  const sum = (list: typeof asked): number => list.reduce((total, { weight }) => total + weight, 0)
  const lacks = counted.filter(({ held }) => !held).map(({ name }) => name)
  return { points: Math.round((100 * sum(counted.filter(({ held }) => held))) / sum(counted)) / 10, lacks }
}

/** The last part of the program's path. */
const nameOf = (pid: string): string => text(pid, 'cmdline').split('\0')[0]?.split('/').at(-1) ?? pid

function find(stage: Stage): Record<keyof typeof THRESHOLDS, string> | null {
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name))
  const own = pids.filter((pid) => text(pid, 'cmdline').includes(stage.ambitHome))
  const by = (part: string): string | undefined => own.find((pid) => text(pid, 'cmdline').includes(part))
  const [view, launch, daemon] = [by('ambit-view\0serve'), by('ambit-launch\0world'), by('--state')]
  if (!view || !launch || !daemon) return null
  return { 'ambit-view': view, 'ambit-launch': launch, ambitd: daemon, supervisor: parentOf(view) }
}

attack('C-55', 'Ambit’s own processes on the host stay below their exposure', async (as) => {
  const stage = new Stage(as, { files: { 'a.txt': 'a' } })
  let found: Readonly<Record<string, string>> = {}
  const running = stage.session(['/bin/sleep', '4'], { env: { [MARK]: '1' } })
  assert.ok(
    await eventually(() => Object.keys((found = find(stage) ?? {})).length > 0, 20_000),
    'the processes are seen',
  )
  let kernels: readonly number[] = []
  const wanted = { 'os-sandbox': 0, container: 2, microvm: 2 }[RUNTIME]
  assert.ok(
    await eventually(() => (kernels = kernelsAndTpmsOf(stage)).length === wanted, 20_000 * PATIENCE),
    `${kernels.length} processes are the session's kernel`,
  )
  await new Promise((resolve) => setTimeout(resolve, 500))
  const own = Object.entries(found).map(([name, pid]) => ({ name, ...score(pid, as) }))
  const theirs = kernels.map((pid) => ({ name: nameOf(String(pid)), ...score(String(pid), as) }))
  const scores = [...own, ...theirs]
  const ran = await running
  assert.equal(ran.code, 0, describe(ran))
  for (const { name, points, lacks } of scores) {
    const threshold = THRESHOLDS[name as keyof typeof THRESHOLDS] ?? KERNEL_THRESHOLD
    const least = threshold - (as === 'root' ? 2 : 0)
    assert.ok(points >= least, `${name} scores ${points}, below ${least}; it lacks: ${lacks.join(', ')}`)
  }
  const plain = score(String(process.pid), as)
  assert.ok(plain.points <= 3, `control: an ordinary program scores ${plain.points}`)
  return scores.map(({ name, points }) => `${name} ${points}`).join(', ')
})
