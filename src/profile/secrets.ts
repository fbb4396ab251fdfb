/** The `credentials` and `environment` sections: what a session holds, and what its programs are told. */
import { AmbitError } from '../lib/errors.ts'
import { printable } from '../lib/printable.ts'
import type { FullSpec } from './defaults.ts'
import type { CredentialPlan, Plan, RootPlan } from './plan.ts'
import { type CredentialEntry, VARIABLE_NAME } from './schema.ts'
import { realOf, within } from './territory.ts'
import { expandPath, type VariableName } from './variables.ts'
import type { Path } from './yaml.ts'
import { invalid } from './invalid.ts'

type Place = (path: Path) => string

/**
 * Headers that frame a message or belong to one hop; a credential there would change what the request is
 * (RFC 9110, 7.6.1).
 */
const STRUCTURAL_HEADERS = new Set(
  `host content-length content-type content-encoding transfer-encoding connection upgrade te trailer expect keep-alive
   range accept-encoding proxy-connection proxy-authorization`.split(/\s+/),
)

/** Variables that Ambit sets itself, or that make a program load code or trust a root. */
const OWN_VARIABLES =
  /^(?:PATH|HOME|USER|LOGNAME|SHELL|PWD|TMPDIR|TERM|LANG|LC_.*|TZ|COLORTERM|AMBIT_.*|LD_.*|DYLD_.*|(?:[a-z]+|[A-Z]+)_(?:proxy|PROXY)|SSL_CERT_(?:FILE|DIR)|NODE_EXTRA_CA_CERTS|NODE_OPTIONS|NODE_TLS_REJECT_UNAUTHORIZED|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|GIT_SSL_.*|PIP_CERT|CARGO_HTTP_CAINFO|AWS_CA_BUNDLE|JAVA_TOOL_OPTIONS|BASH_ENV|ENV|IFS)$/

/** @throws AmbitError ERR_PROFILE_INVALID, ERR_PATH_FORBIDDEN */
export function compileCredentials(
  spec: FullSpec,
  place: Place,
  values: Readonly<Record<VariableName, string>>,
  roots: readonly RootPlan[],
): CredentialPlan[] {
  const plans = spec.credentials.map((entry, index) => {
    const at = (key: keyof CredentialEntry): string => place(['spec', 'credentials', index, key])
    const header = entry.header.toLowerCase()
    if (STRUCTURAL_HEADERS.has(header)) throw invalid(at('header'), 'is no header for a credential')
    if (entry.env !== undefined && OWN_VARIABLES.test(entry.env))
      throw invalid(at('env'), 'is a variable with a meaning of its own')
    return {
      name: entry.name,
      kind: entry.kind,
      header,
      prefix: entry.prefix ?? '',
      source: compileSource(entry.source, at('source'), values, roots),
      env: entry.env ?? null,
    }
  })
  refuseTwins(plans, (index) => place(['spec', 'credentials', index]))
  return plans
}

/** `env:NAME`, or `file:` with an absolute path that no root shows to the agent. */
function compileSource(
  source: string,
  place: string,
  values: Readonly<Record<VariableName, string>>,
  roots: readonly RootPlan[],
): string {
  const [scheme, rest] = [source.slice(0, source.indexOf(':')), source.slice(source.indexOf(':') + 1)]
  if (scheme === 'env' && VARIABLE_NAME.test(rest)) return source
  if (scheme !== 'file') throw invalid(place, 'is neither env:NAME nor file:PATH')
  const expanded = expandPath(rest, values)
  if (typeof expanded === 'string') throw invalid(place, expanded)
  const real = realOf(expanded.path)
  const root = roots.find(
    (candidate) => within(real, candidate.path) || within(expanded.path, candidate.path),
  )
  if (root) {
    throw new AmbitError(
      'ERR_PATH_FORBIDDEN',
      place,
      `the file lies in ${root.id} (${printable(root.path)}), where the agent works`,
      'move it to a directory that no session sees',
    )
  }
  return `file:${expanded.path}`
}

function refuseTwins(plans: readonly CredentialPlan[], place: (index: number) => string): void {
  for (const [index, plan] of plans.entries()) {
    const twin = plans
      .slice(0, index)
      .find((other) => other.name === plan.name || (plan.env !== null && other.env === plan.env))
    if (twin) throw invalid(place(index), `has the name or the variable of ${twin.name}`)
  }
}

/** @throws AmbitError ERR_PROFILE_INVALID */
export function compileEnvironment(spec: FullSpec, place: Place): Plan['environment'] {
  const { pass, set } = spec.environment
  for (const [index, name] of pass.entries()) {
    const at = place(['spec', 'environment', 'pass', index])
    if (isSecretShaped(name))
      throw invalid(
        at,
        `${name} looks like a secret: name it under credentials, which keeps its value outside`,
      )
    if (OWN_VARIABLES.test(name)) throw invalid(at, `${name} is set by Ambit`)
    // However harmless its name: this variable holds the credential itself outside, or its placeholder inside.
    const credential = spec.credentials.find((entry) => entry.env === name || entry.source === `env:${name}`)
    if (credential) throw invalid(at, `belongs to credential ${credential.name}`)
  }
  for (const [name, value] of Object.entries(set)) {
    const at = place(['spec', 'environment', 'set', name])
    if (OWN_VARIABLES.test(name)) throw invalid(at, `${name} is set by Ambit`)
    // oxlint-disable-next-line no-control-regex -- control characters are what this refuses
    if (/[\u0000-\u001f\u007f]/.test(value)) throw invalid(at, 'has control characters')
    const credential = spec.credentials.find((entry) => entry.env === name)
    if (credential) throw invalid(at, `is the placeholder of credential ${credential.name}`)
  }
  return { pass: [...new Set(pass)], set }
}

const SECRET_WORDS = new Set(
  'AUTH BEARER COOKIE COOKIES CRED CREDS DSN JWT KEY KEYS PASS PASSPHRASE PAT PIN PRIVATE PSK PW PWD SALT SID SIG SIGNATURE SSH'.split(
    ' ',
  ),
)

/** Whether a variable's name says that its value is a secret or carries one (connection strings do). */
function isSecretShaped(name: string): boolean {
  const upper = name.toUpperCase()
  if (/TOKEN|SECRET|PASSW|PASSWD|CREDENTIAL|APIKEY|ACCESSKEY|PRIVATEKEY|SESSION/.test(upper)) return true
  if (
    /(?:DATABASE|DB|REDIS|MONGO(?:DB)?|POSTGRES(?:QL)?|PG|MYSQL|AMQP|RABBITMQ|KAFKA|SENTRY|WEBHOOK|SMTP|CONNECTION).*_?(?:URL|URI|STRING)$/.test(
      upper,
    )
  )
    return true
  return upper.split('_').some((word) => SECRET_WORDS.has(word))
}
