/**
 * May this process act for another one? Only where the kernel would have let that one do the same with the same
 * effect: same identity and rights, same confinement, same namespaces, same root, same limits. Anything else starts
 * its own process.
 */
import { readFileSync, readlinkSync, statSync } from 'node:fs'
import { messageOf } from '../lib/errors.ts'

const NAMESPACES = ['user', 'pid', 'mnt', 'net', 'ipc', 'uts', 'cgroup', 'time'] as const
/** The number of filters too: where everything runs under one (in a container), the mode alone says nothing. */
const RIGHTS = /^(Uid|Gid|Groups|CapInh|CapPrm|CapEff|CapBnd|CapAmb|Seccomp|Seccomp_filters|Cpus_allowed):/

/** Every property in which process `pid` (that must live) and this one differ; empty when one may act for the other. */
export function differencesFrom(pid: number): string[] {
  const [theirs, ours] = [likenessOf(String(pid)), likenessOf('self')]
  const different = Object.keys(ours).filter((name) => theirs[name] !== ours[name])
  return mayBeConfined(pid) ? [...different, 'no-new-privileges'] : different
}

/**
 * We gave up new privileges, as `ambit run` does at its start. A caller who did so before may have put itself under
 * Landlock, which nothing in /proc shows and which nobody without privilege can do otherwise.
 */
const mayBeConfined = (pid: number): boolean =>
  !/^NoNewPrivs:\s*0$/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))

function likenessOf(process: string): Record<string, string> {
  const place = `/proc/${process}`
  const root = statSync(`${place}/root/.`)
  return {
    root: `${root.dev}:${root.ino}`,
    rights: linesOf(`${place}/status`, (line) => RIGHTS.test(line)),
    limits: linesOf(`${place}/limits`, (line) => !GIVEN_UP.test(line), hardLimit),
    module: securityContext(`${place}/attr/current`),
    ...Object.fromEntries(NAMESPACES.map((kind) => [kind, readlinkSync(`${place}/ns/${kind}`)])),
  }
}

function linesOf(path: string, wanted: (line: string) => boolean, part = (line: string) => line): string {
  return readFileSync(path, 'utf8').split('\n').filter(wanted).map(part).join('\n')
}

/** What AppArmor or SELinux confine it to; an error (the same for both) where there is neither. */
function securityContext(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    return messageOf(error).split(',')[0] ?? ''
  }
}

/** `ambit run` and ambitd write no core files: they hold credentials. */
const GIVEN_UP = /^Max core file size/

/** Name and hard limit. Node raises its own soft limit of open files, and the launcher, which runs the agent, is the caller's child. */
const hardLimit = (line: string): string => line.replace(/^(.{26})\S+\s+/, '$1')
