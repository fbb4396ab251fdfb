/**
 * Ends test files that do not end. node:test limits each test, but not the process of a file that stays alive when its
 * tests are done.
 */
import { readFileSync, readdirSync, readlinkSync } from 'node:fs'
import { commandOf, kill } from './processes.ts'

const LOOK_MS = 2000

/**
 * Watches the files, absolute paths, that this process runs, and kills each that takes longer than `limit` grants in
 * milliseconds, with all that it started. `told` hears of it. Returns how to stop.
 */
export function limitFiles(
  files: readonly string[],
  limit: (file: string) => number,
  told: (file: string, ms: number) => void,
): () => void {
  /** Pid → when it was first seen. */
  let since = new Map<number, number>()
  const timer = setInterval(() => {
    const all = processes()
    const own = all.filter(({ parent }) => parent === process.pid)
    since = new Map(own.map(({ pid }) => [pid, since.get(pid) ?? Date.now()]))
    for (const { pid } of own) {
      const file = fileOf(pid)
      if (!files.includes(file) || Date.now() - (since.get(pid) ?? 0) < limit(file)) continue
      told(file, limit(file))
      for (const one of [...startedBy(pid, all), ...sharingOutput(pid, all), pid]) kill(one)
    }
  }, LOOK_MS)
  timer.unref()
  return () => clearInterval(timer)
}

interface Process {
  readonly pid: number
  readonly parent: number
}

function processes(): readonly Process[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      try {
        // `PID (NAME) STATE PARENT …`; the name may hold anything.
        const [state, parent] =
          readFileSync(`/proc/${name}/stat`, 'latin1').split(') ').at(-1)?.split(' ') ?? []
        return state === 'Z' ? [] : [{ pid: Number(name), parent: Number(parent) }]
      } catch {
        return [] // It just ended.
      }
    })
}

/** The last word of a command line. */
const fileOf = (pid: number): string => commandOf(pid).split('\0').at(-2) ?? ''

function startedBy(pid: number, all: readonly Process[]): readonly number[] {
  const children = all.filter(({ parent }) => parent === pid).map((child) => child.pid)
  return [...children, ...children.flatMap((child) => startedBy(child, all))]
}

/** Also those whose parent is gone: the run waits for the end of a file's output, however long somebody holds it. */
function sharingOutput(pid: number, all: readonly Process[]): readonly number[] {
  const outputs = outputsOf(pid)
  const shares = (other: number): boolean => outputsOf(other).some((output) => outputs.includes(output))
  return all.map((one) => one.pid).filter((other) => other !== pid && other !== process.pid && shares(other))
}

/** Names of pipes and sockets: a terminal or /dev/null is everybody's. */
function outputsOf(pid: number): readonly string[] {
  try {
    const outputs = [1, 2].map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`))
    return outputs.filter((output) => /^(pipe|socket):/.test(output))
  } catch {
    return []
  }
}
