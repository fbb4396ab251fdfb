import { readFileSync } from 'node:fs'
import { homeKey } from './home.ts'

export interface Ids {
  readonly uid: number
  readonly gid: number
}

/** Who the agent's processes are, to the host and to themselves. */
export interface Owner {
  readonly host: Ids
  readonly inside: Ids
}

/** Above every range that distributions and subuid files hand out, below 2^31. */
const DEDICATED = 0x7000_0000

/**
 * An ordinary user's agent runs as that user. Root's agent gets an id of its own, one for each (agent, project):
 * host uid 0, even without capabilities, reads what root owns, and one agent must not read another's home.
 */
export function sessionOwner(caller: Ids, agent: string, project: string, uidMap = idMap()): Owner {
  if (caller.uid !== 0) return { host: caller, inside: caller }
  const spread = Number.parseInt(homeKey(agent, project).slice(0, 6), 16)
  const uid = fits(DEDICATED + spread, uidMap) ? DEDICATED + spread : 61_184 + (spread % 4096)
  return { host: { uid, gid: uid }, inside: { uid: 1000, gid: 1000 } }
}

/** In a container only the ids of its user namespace exist. 61184–65519 is systemd's range for such uses. */
function fits(id: number, uidMap: string): boolean {
  return uidMap.split('\n').some((line) => {
    const [start, , count] = line.trim().split(/\s+/).map(Number)
    return start !== undefined && count !== undefined && id >= start && id < start + count
  })
}

function idMap(): string {
  return readFileSync('/proc/self/uid_map', 'utf8')
}
