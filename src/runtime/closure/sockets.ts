import { readFileSync } from 'node:fs'

/** Paths of the Unix sockets that are bound on this machine, as far as this network namespace knows them. */
export function boundSockets(table = readFileSync('/proc/net/unix', 'utf8')): string[] {
  // Num RefCount Protocol Flags Type St Inode Path; abstract names begin with @.
  return table.split('\n').flatMap((line) => /^(?:\S+\s+){7}(\/.*)$/.exec(line)?.[1] ?? [])
}
