/** `ambit image warm`: boots a machine with nothing of a session in it, and keeps what it has become. */
import { closeSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { userInfo } from 'node:os'
import { join } from 'node:path'
import { makeDir } from '../../lib/make-dir.ts'
import type { Paths } from '../../lib/paths.ts'
import type { Plan } from '../../profile/plan.ts'
import { HOSTNAME, PORTS } from '../build-launch-spec.ts'
import type { LaunchCell, LaunchSpec } from '../launch-spec.ts'
import { describeMachine } from '../microvm.ts'
import { openWorld } from '../os-sandbox.ts'
import { nativeBinary } from '../../lib/paths.ts'
import { type Owner, sessionOwner } from '../owner.ts'
import { findTool } from '../tools.ts'
import { keepSnapshot } from './snapshot.ts'

const NO_PROFILE = '0'.repeat(64)
/** It runs no command and no user of it is there: these only bound QEMU. */
const LIMITS = { processes: 16, wallclock: 60_000, disk: 1 << 20, openFiles: 1024 }

/** Takes the snapshot for sessions of this shape. Throws ERR_RUNTIME_MISSING or ERR_RUNTIME_FAILED. */
export async function warmImage(
  paths: Paths,
  isolation: Plan['isolation'],
): Promise<{ dir: string; size: number }> {
  const machine = await describeMachine(paths, isolation, ownerOf(paths).host.uid)
  return keepSnapshot(paths, await machine.shape(), (path) =>
    write(paths, machine.cell({ use: 'take', path }, NO_PROFILE), isolation),
  )
}

function ownerOf({ state }: Paths): Owner {
  const { uid, gid } = userInfo()
  return sessionOwner({ uid, gid }, 'ambit image warm', state)
}

async function write(paths: Paths, cell: LaunchCell, { memory, cpus }: Plan['isolation']): Promise<void> {
  makeDir(paths.run)
  const dir = mkdtempSync(join(paths.run, 'warm-'))
  try {
    const specPath = join(dir, 'launch.json')
    const spec = emptySession(cell, dir, paths, { ...LIMITS, memory, cpus })
    writeFileSync(specPath, JSON.stringify(spec), { mode: 0o600 })
    const world = await openWorld(nativeBinary('ambit-launch'), specPath)
    // Nobody listens, and no view answers: a machine without a session asks for neither.
    for (const fd of [...Object.values(world.sockets), world.fuse]) closeSync(fd)
    await world.build()
    world.kill()
    await world.gone
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
}

function emptySession(cell: LaunchCell, dir: string, paths: Paths, limits: LaunchSpec['limits']): LaunchSpec {
  return {
    version: 2,
    session: 'warm',
    tools: { bwrap: findTool('bwrap', 'bubblewrap') },
    cell,
    ...ownerOf(paths),
    hostname: HOSTNAME,
    mounts: [],
    argv: ['true'],
    env: {},
    cwd: '/',
    terminal: false,
    ports: PORTS,
    limits,
    journal: join(dir, 'launch.wal'),
  }
}
