import { createHash } from 'node:crypto'
import {
  chmodSync,
  closeSync,
  constants,
  lchownSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { makeDir } from '../lib/make-dir.ts'
import { AmbitError } from '../lib/errors.ts'
import { native } from '../lib/native.ts'

/** A home of Ambit's for one agent in one project: history and settings live in it, no secret ever. */
export interface AgentHome {
  /** Host directory, mounted over the user's real home path. */
  readonly path: string
  /** True when this session is its first: seeds were written. */
  readonly fresh: boolean
}

interface Mountpoint {
  /** Relative to the home. */
  readonly path: string
  readonly file: boolean
}

export interface HomeRequest {
  /** `agentHomesDir(paths)`. */
  readonly dir: string
  readonly agent: string
  readonly project: string
  /** Host owner; chosen by `sessionOwner`. */
  readonly owner: { readonly uid: number; readonly gid: number }
  /** Places that will be mounted over. */
  readonly mountpoints: readonly Mountpoint[]
  /** Files written when the home is made, relative path → content. Never later: by then the agent owns the tree. */
  readonly seeds: () => Readonly<Record<string, string>>
}

/** Homes of one (agent, project) that can be in use at a time. */
const SLOTS = 64

/** Names the home of an agent in a project; the owner's uid for sessions of root derives from it too. */
export const homeKey = (agent: string, project: string): string =>
  createHash('sha256').update(`${agent}\0${project}`).digest('hex').slice(0, 24)

/** Locks of the homes in use. */
const held: number[] = []

/** Gives back the homes that this process took, for one that outlives its session. */
export function releaseHomes(): void {
  for (const fd of held.splice(0)) closeSync(fd)
}

/**
 * Takes a home for one session, until `releaseHomes` or the end of this process. Two sessions never share one: the second could plant links where the first
 * session's mounts are about to be laid.
 */
export function takeHome(request: HomeRequest): AgentHome {
  makeDir(request.dir)
  const key = homeKey(request.agent, request.project)
  for (let slot = 0; slot < SLOTS; slot++) {
    const name = slot === 0 ? key : `${key}.${slot}`
    if (lock(join(request.dir, `${name}.lock`))) return makeHome(join(request.dir, name), request)
  }
  throw new AmbitError(
    'ERR_RUNTIME_FAILED',
    'agent home',
    `${SLOTS} sessions of this agent run in this project already`,
    'end one of them: ambit sessions',
  )
}

/** The kernel frees the lock with its descriptor, so with this process at the latest. */
function lock(path: string): boolean {
  const flags = constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW
  const fd = openSync(path, flags, 0o600)
  if (native().tryLock(fd)) return held.push(fd) > 0
  closeSync(fd)
  return false
}

function makeHome(path: string, request: HomeRequest): AgentHome {
  const fresh = lstatSync(path, { throwIfNoEntry: false }) === undefined
  if (fresh) {
    mkdirSync(path, { mode: 0o700 })
    for (const [name, content] of Object.entries(request.seeds())) seed(path, name, content)
    ownAll(path, request.owner)
  }
  chmodSync(path, 0o700)
  for (const mountpoint of request.mountpoints) prepareMountpoint(path, mountpoint, request.owner)
  return { path, fresh }
}

function seed(home: string, name: string, content: string): void {
  makeDir(join(home, name, '..'))
  writeFileSync(join(home, name), content, { mode: 0o600, flag: 'wx' })
}

/** Only for a tree that no agent has touched yet. */
function ownAll(path: string, owner: HomeRequest['owner']): void {
  lchownSync(path, owner.uid, owner.gid)
  if (!lstatSync(path).isDirectory()) return
  for (const name of readdirSync(path)) ownAll(join(path, name), owner)
}

/**
 * Makes the directory or empty file that a mount will cover. The tree was the agent's in earlier sessions: a link or
 * whatever else stands in the way is moved aside, never followed (C-39, F-04). Nothing else writes here
 * meanwhile: the home is locked.
 */
function prepareMountpoint(home: string, { path, file }: Mountpoint, owner: HomeRequest['owner']): void {
  const parts = path.split('/').filter((part) => part !== '')
  parts.reduce((parent, part, index) => {
    const place = join(parent, part)
    makePlace(place, file && index === parts.length - 1, owner)
    return place
  }, home)
}

function makePlace(place: string, file: boolean, owner: HomeRequest['owner']): void {
  const stat = lstatSync(place, { throwIfNoEntry: false })
  if (stat && (file ? stat.isFile() : stat.isDirectory())) return
  if (stat) renameSync(place, `${place}.aside-${Date.now()}`)
  if (file) writeFileSync(place, '', { mode: 0o600, flag: 'wx' })
  else mkdirSync(place, { mode: 0o700 })
  lchownSync(place, owner.uid, owner.gid)
}
