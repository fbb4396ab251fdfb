/** Step 4: gate, world, view and cell, in the order that lets none of them run without the others. */
import { closeSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { makeDir } from '../lib/make-dir.ts'
import type { Barrier } from '../audit/barrier.ts'
import type { FactBody } from '../audit/fact.ts'
import type { DaemonClient } from '../daemon/client.ts'
import { createGate, type Gate } from '../gate/gate.ts'
import { journalDir } from '../lib/paths.ts'
import { openRuntimePolicy } from '../policy/runtime.ts'
import { fillMirror } from '../profile/mirror.ts'
import type { Plan } from '../profile/plan.ts'
import { beneath } from '../profile/territory.ts'
import { requireEnforced } from '../runtime/enforcement.ts'
import { type PreparedLaunch, prepareLaunch } from '../runtime/prepare.ts'
import { sessionOwner } from '../runtime/owner.ts'
import type { LaunchSpec } from '../runtime/launch-spec.ts'
import type { Adapted, Ground, Runtime, ShownPlace, World } from '../runtime/runtime.ts'
import { runtimes } from '../runtime/runtimes.ts'
import { startView, type View } from '../view/view.ts'
import type { ViewRoot, ViewSpec } from '../view/view-spec.ts'
import { AmbitError } from '../lib/errors.ts'
import { LabelWatch, openBarrier } from './durability.ts'
import type { Front } from './front.ts'
import type { Registered } from './register.ts'
import { homeOf } from './resolve.ts'
import { VIEW_SPEC } from './review.ts'
import { readSecrets, type Secrets } from './secrets.ts'
import { LiveState } from './state.ts'
import { wayOut } from './way-out.ts'

export interface Wired {
  readonly state: LiveState
  readonly barrier: Barrier
  readonly labels: LabelWatch
  readonly gate: Gate
  readonly view: View
  readonly world: World
  readonly daemon: DaemonClient
}

/**
 * Builds the session's world up to the point where the command waits for `world.exec()`. The parts are made side by
 * side; the view serves, and the cell is built, once the session's start is durable.
 */
export async function wireSession(session: Registered, front: Front): Promise<Wired> {
  const runtime = runtimes[session.runtime]
  const ground = await groundFor(session, runtime)
  // What starts, which it may have noted.
  const noted = session.journal.sync()
  noted.catch(() => undefined)
  const state = new LiveState()
  // Reads of a plain mount pass no view and raise no label: what it holds counts as read.
  for (const root of session.plan.roots) if (root.via === 'mount') state.raiseLabel(root.label)
  prepareRoots(session.plan)
  const secrets = readSecrets(session.plan.credentials, session.request.env)
  const barrier = openBarrier(session.request.paths, session.id, session.journal)
  const labels = new LabelWatch(session.request.paths, session.id)
  const launch = launchSpec(session, secrets, front.terminal, ground)
  const opening = openWorld(session, ground, launch, front)
  let gate: Gate | null = null
  let viewing: Promise<View> | null = null
  try {
    gate = await openGate(session, secrets, state, barrier, labels)
    if (launch.etc === 'copied') launch.fillEtc(gate.caPem)
    // What starts is on record before its first instruction.
    const [world, daemon] = await Promise.all([opening, session.recorded, noted])
    // Its mounts wait in the kernel for the view's first answer, its command for all of this.
    const building = world.build()
    building.catch(() => undefined)
    viewing = serveView(session, launch, world)
    if (launch.etc === 'mounted') launch.fillEtc(gate.caPem)
    const [view, controls] = await Promise.all([viewing, building, gate.listen(world.sockets)])
    session.journal.append({ k: 'session.enforced', controls: [...controls] })
    await session.journal.sync()
    requireEnforced(runtime, controls, session.plan.isolation)
    return { state, barrier, labels, gate, view, world, daemon }
  } catch (error) {
    const world = await opening.catch(() => null)
    world?.kill()
    const view = await viewing?.catch(() => null)
    await view?.stop()
    await gate?.close(0)
    await world?.gone
    labels.close()
    throw error
  }
}

/** A runtime that policy asks for and this machine lacks is no reason for a weaker one; the message says which rule. */
async function groundFor(session: Registered, runtime: Runtime): Promise<Ground> {
  const note = (fact: FactBody): void => session.journal.append(fact)
  try {
    const { request, plan, agent, user } = session
    const { host } = sessionOwner({ uid: user.uid, gid: user.uid }, agent.name, request.project)
    return await runtime.find({ paths: request.paths, plan, hostUid: host.uid, note })
  } catch (error) {
    if (!(error instanceof AmbitError) || session.raised.length === 0) throw error
    const why = `${error.why} (needed for ${session.raised.join(', ')})`
    throw new AmbitError(error.code, error.what, why, error.remedy, { cause: error })
  }
}

function openWorld(session: Registered, ground: Ground, { spec }: Launch, front: Front): Promise<World> {
  const specPath = writeSpec(session, 'launch', spec)
  const opening = ground.open(specPath, front.startLauncher)
  opening.catch(() => undefined)
  return opening
}

function serveView(session: Registered, launch: Launch, world: World): Promise<View> {
  const spec = viewSpec(session, launch)
  const viewing = startView({ spec, specPath: join(session.dir, VIEW_SPEC), fuse: world.fuse })
  viewing.catch(() => undefined)
  // The view's copy must be the only one: when it dies, the kernel then ends the mount instead of hanging it.
  closeSync(world.fuse)
  return viewing
}

/** The directories that are Ambit's to make, and the copies that the mirror holds. */
function prepareRoots(plan: Plan): void {
  for (const root of plan.roots) if (root.create) makeDir(root.path)
  fillMirror(plan.mirror)
}

function openGate(
  session: Registered,
  secrets: Secrets,
  state: LiveState,
  barrier: Barrier,
  labels: LabelWatch,
): Promise<Gate> {
  return createGate({
    plan: session.plan,
    secrets: secrets.values,
    placeholders: secrets.placeholders,
    record: (fact) => session.journal.queue(fact),
    barrier: () => barrier.sync(),
    state: () => {
      for (const label of labels.poll()) state.raiseLabel(label)
      return state.snapshot()
    },
    stopped: () => state.stopped,
    policy: openRuntimePolicy(session.plan, session.request.paths),
    upstream: wayOut(session.request.env, session.request.cwd),
  })
}

type Launch = Adapted & Pick<PreparedLaunch, 'fillEtc'>

function launchSpec(session: Registered, secrets: Secrets, terminal: boolean, ground: Ground): Launch {
  const { request, plan, agent, id } = session
  const { spec, fillEtc } = prepareLaunch({
    plan,
    agent,
    session: id,
    argv: request.argv,
    cwd: request.cwd,
    placeholders: secrets.placeholders,
    terminal,
    journal: join(journalDir(request.paths, id), 'launch.wal'),
    env: request.env,
    project: request.project,
    home: homeOf(request),
    paths: request.paths,
    run: session.run,
    ground,
  })
  return { ...ground.adapt(spec, plan.roots.length), fillEtc }
}

function viewSpec(session: Registered, { spec, shown, owner }: Launch): ViewSpec {
  const { plan, request, id, dir } = session
  const quota = {
    bytes: plan.isolation.disk,
    inodes: Math.max(10_000, Math.floor(plan.isolation.disk / 8192)),
  }
  return {
    version: 1,
    session: id,
    journal: join(journalDir(request.paths, id), 'view.wal'),
    owner: { hostUid: process.getuid?.() ?? 0, hostGid: process.getgid?.() ?? 0, ...owner },
    quota,
    roots: [
      ...plan.roots.map((root, index) => ({
        index,
        rule: root.id,
        path: root.path,
        access: root.access,
        label: root.label,
        hide: root.hide,
        protect: root.protect,
        review: root.review,
        upper: upperOf(dir, index, root),
        nested: nestedIn(plan, root.path, spec),
      })),
      ...shown.map((place) => shownRoot(place, plan, spec)),
    ],
  }
}

/** The agent's home and closure: no profile says anything of them, and they hold nothing of the user's. */
function shownRoot({ index, source, target, write }: ShownPlace, plan: Plan, spec: LaunchSpec): ViewRoot {
  return {
    index,
    path: source,
    access: write ? 'write' : 'read',
    label: 'public',
    hide: [],
    protect: [],
    review: [],
    upper: null,
    nested: nestedIn(plan, target, spec),
  }
}

function upperOf(dir: string, index: number, root: Plan['roots'][number]): string | null {
  if (root.access !== 'review' && root.review.length === 0) return null
  const upper = join(dir, 'upper', String(index))
  makeDir(join(upper, 'files'))
  makeDir(join(upper, 'meta'))
  return upper
}

/** Names under `root` that something else is mounted over: they must stay where they are. */
function nestedIn(plan: Plan, root: string, spec: LaunchSpec): string[] {
  const others = [...plan.roots.map((other) => other.path), ...spec.mounts.map((mount) => mount.target)]
  const inside = others.map((path) => beneath(path, root)).filter((path) => path !== null)
  return [...new Set(inside)]
}

function writeSpec(session: Registered, name: string, spec: unknown): string {
  const path = join(session.run, `${name}.json`)
  writeFileSync(path, JSON.stringify(spec), { mode: 0o600 })
  return path
}
