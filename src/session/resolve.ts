/** Step 1: what the request means on this machine, before anything is built. */
import { createHash } from 'node:crypto'
import { hostname, userInfo } from 'node:os'
import { basename, join } from 'node:path'
import { AmbitError } from '../lib/errors.ts'
import { type Admission, decideAdmission } from '../policy/admission.ts'
import { compilePlan } from '../profile/compile.ts'
import { loadProfile } from '../profile/load.ts'
import type { Plan } from '../profile/plan.ts'
import { type Agent, resolveAgent } from '../runtime/closure.ts'
import { refuseUnavailable } from '../runtime/unavailable.ts'
import { type Isolation, isolationOf } from './isolation.ts'
import type { SessionRequest } from './request.ts'

export interface Resolved extends Isolation {
  readonly request: SessionRequest
  readonly agent: Agent
  readonly plan: Plan
  readonly admission: Admission
  readonly workspace: string
  readonly user: { readonly name: string; readonly uid: number }
}

/** @throws AmbitError when the command, the profile or the policy does not allow a session. */
export function resolveSession(request: SessionRequest): Resolved {
  const command = request.argv[0]
  if (!command) throw new AmbitError('ERR_USAGE', 'run', 'no command', 'ambit run -- CMD…')
  refuseUnavailable(command)
  const user = { name: userInfo().username, uid: userInfo().uid }
  const workspace = request.workspace ?? defaultWorkspace(request)
  const document = loadProfile(request.profile, request.paths)
  const plan = compilePlan(
    document,
    { project: request.project, workspace, home: homeOf(request) },
    request.paths,
  )
  const agent = resolveAgent(command, {
    cwd: request.cwd,
    env: request.env,
    home: homeOf(request),
    own: [request.paths.config, request.paths.state, request.paths.run],
    roots: plan.roots.map((root) => root.path),
    cache: join(request.paths.state, 'cache', 'closures'),
  })
  const admission = decideAdmission(
    {
      user,
      device: { hostname: hostname(), os: process.platform },
      agent: { name: agent.name, version: agent.version, digest: agent.digest, path: agent.executable },
      plan,
      accepted: request.accepted,
    },
    request.paths,
  )
  if (admission.effect === 'deny') {
    throw new AmbitError(
      'ERR_POLICY_DENIED',
      `profile ${plan.profile.name}`,
      admission.reasons.join(', ') || 'policy gave no decision, which denies',
      'ask whoever keeps the policy, or choose another profile',
    )
  }
  const isolation = isolationOf(plan.isolation.runtime, admission, request.runtime)
  return { request, agent, plan, admission, ...isolation, workspace, user }
}

export const homeOf = (request: SessionRequest): string => request.env.HOME || userInfo().homedir

/** One visible directory per project, outside it and outside Ambit's own state. */
function defaultWorkspace(request: SessionRequest): string {
  const mark = createHash('sha256').update(request.project).digest('hex').slice(0, 6)
  return join(homeOf(request), 'ambit', `${basename(request.project) || 'root'}-${mark}`)
}
