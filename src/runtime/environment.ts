import type { Plan } from '../profile/plan.ts'
import { type Agent, BIN } from './closure.ts'
import { isWithin } from './closure/guard.ts'
import { isSystem } from './closure/trees.ts'

/** Where the session's CA lies inside. */
export const CA_BUNDLE = '/etc/ssl/certs/ca-certificates.crt'
export const CA_ONE = '/etc/ssl/ambit-session-ca.pem'

export interface EnvironmentInput {
  readonly plan: Plan
  readonly agent: Agent
  /** Variables of the agent's adapter. */
  readonly adapter: Readonly<Record<string, string>>
  readonly user: { readonly name: string; readonly home: string; readonly shell: string }
  /** The caller's environment: only named variables are taken from it. */
  readonly caller: NodeJS.ProcessEnv
  /** Variable → placeholder, for credentials that name one. */
  readonly placeholders: Readonly<Record<string, string>>
}

/** Taken over from the caller: how text looks and what time it is. */
const CARRIED = /^(LANG|LANGUAGE|LC_[A-Z]+|TERM|COLORTERM|TZ)$/

/** Full bundle, for programs that take one file instead of their own roots. */
const BUNDLE_VARIABLES = [
  'SSL_CERT_FILE', 'REQUESTS_CA_BUNDLE', 'CURL_CA_BUNDLE', 'GIT_SSL_CAINFO', 'PIP_CERT', 'CARGO_HTTP_CAINFO', 'AWS_CA_BUNDLE',
  'NIX_SSL_CERT_FILE', 'CODEX_CA_CERTIFICATE', 'GRPC_DEFAULT_SSL_ROOTS_FILE_PATH', 'HTTPLIB2_CA_CERTS', 'CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE',
] // biome-ignore format: a list of names

/** One CA beside the program's own roots. The whole bundle would cost Node 50 ms at every start. */
const EXTRA_VARIABLES = ['NODE_EXTRA_CA_CERTS', 'DENO_CERT']

/**
 * The agent's whole environment, rebuilt: nothing is inherited that this function does not name. Sockets of the
 * desktop and of agents (DBUS_*, DISPLAY, SSH_AUTH_SOCK, XDG_RUNTIME_DIR) never appear, whatever a profile passes;
 * the profile's compiler refuses those and secret-shaped names.
 */
export function buildEnvironment(input: EnvironmentInput): Record<string, string> {
  const { plan, caller, user } = input
  const env: Record<string, string> = {}
  for (const [name, value] of Object.entries(caller)) {
    if (value !== undefined && (CARRIED.test(name) || plan.environment.pass.includes(name))) env[name] = value
  }
  Object.assign(env, {
    LANG: env.LANG ?? 'C.UTF-8',
    PATH: pathInside(input).join(':'),
    HOME: user.home,
    USER: user.name,
    LOGNAME: user.name,
    SHELL: isSystem(user.shell) ? user.shell : '/bin/sh',
  })
  // Where clones, installs and builds are free; an agent that is refused in the project has to find it.
  const workspace = plan.roots.find(({ variable }) => variable === 'workspace')
  if (workspace) env.AMBIT_WORKSPACE = workspace.path
  Object.assign(env, input.adapter, plan.environment.set)
  for (const name of BUNDLE_VARIABLES) env[name] = CA_BUNDLE
  for (const name of EXTRA_VARIABLES) env[name] = CA_ONE
  return Object.assign(env, input.placeholders)
}

const SYSTEM_PATH = ['/usr/local/bin', '/usr/bin', '/bin', '/usr/local/sbin', '/usr/sbin', '/sbin']

/** The closure's directories, those of the caller's PATH that exist inside, the system's. */
function pathInside(input: EnvironmentInput): string[] {
  const visible = [...input.agent.mounts, ...input.plan.roots].map((place) => place.path)
  const kept = (input.caller.PATH ?? '')
    .split(':')
    .filter((dir) => dir.startsWith('/') && (isSystem(dir) || visible.some((place) => isWithin(dir, place))))
  return [...new Set([BIN, ...input.agent.pathDirs, ...kept, ...SYSTEM_PATH])]
}
