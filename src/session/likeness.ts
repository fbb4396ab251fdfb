/**
 * May this process act for another one? Only where the kernel would have let that one do the same with the same
 * effect: same identity and rights, same namespaces, same root, same limits. Anything else starts its own process.
 */
import { readFileSync, readlinkSync, statSync } from 'node:fs'

const NAMESPACES = ['user', 'pid', 'mnt', 'net', 'ipc', 'uts', 'cgroup', 'time'] as const
const RIGHTS = /^(Uid|Gid|Groups|CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp):/

/** Every property in which process `pid` (that must live) and this one differ; empty when one may act for the other. */
export function differencesFrom(pid: number): string[] {
  const [theirs, ours] = [likenessOf(String(pid)), likenessOf('self')]
  return Object.keys(ours).filter((name) => theirs[name] !== ours[name])
}

function likenessOf(process: string): Record<string, string> {
  const place = `/proc/${process}`
  const root = statSync(`${place}/root/.`)
  return {
    root: `${root.dev}:${root.ino}`,
    rights: linesOf(`${place}/status`, (line) => RIGHTS.test(line)),
    limits: linesOf(`${place}/limits`, () => true, hardLimit),
    ...Object.fromEntries(NAMESPACES.map((kind) => [kind, readlinkSync(`${place}/ns/${kind}`)])),
  }
}

function linesOf(path: string, wanted: (line: string) => boolean, part = (line: string) => line): string {
  return readFileSync(path, 'utf8').split('\n').filter(wanted).map(part).join('\n')
}

/** Name and hard limit. Node raises its own soft limit of open files, and the launcher, which runs the agent, is the caller's child. */
const hardLimit = (line: string): string => line.replace(/^(.{26})\S+\s+/, '$1')
