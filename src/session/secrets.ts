/** Reads credential sources outside the sandbox and makes the placeholders that stand for them inside. */
import { readFileSync, statSync } from 'node:fs'
import { AmbitError, errnoOf, messageOf } from '../lib/errors.ts'
import type { CredentialPlan } from '../profile/plan.ts'
import { placeholderFor } from './placeholder.ts'

const MAX_SECRET = 8192
/** Shapes the placeholder of a credential whose source is absent; requests that need it are refused. */
const ABSENT = 'ambit-000000000000000000000000'

export interface Secrets {
  /** Values by credential name; only the gate sees this map. A credential whose source is absent is not in it. */
  readonly values: ReadonlyMap<string, string>
  readonly placeholders: ReadonlyMap<string, string>
}

/** @throws AmbitError ERR_CREDENTIAL_SOURCE when a source exists but cannot be used. */
export function readSecrets(credentials: readonly CredentialPlan[], env: NodeJS.ProcessEnv): Secrets {
  const values = new Map<string, string>()
  const placeholders = new Map<string, string>()
  for (const credential of credentials) {
    const value = readSource(credential, env)
    if (value !== null) values.set(credential.name, value)
    placeholders.set(credential.name, placeholderFor(value ?? ABSENT))
  }
  return { values, placeholders }
}

function readSource(credential: CredentialPlan, env: NodeJS.ProcessEnv): string | null {
  const [scheme, ...rest] = credential.source.split(':')
  const place = rest.join(':')
  const raw =
    scheme === 'env' ? env[place] : scheme === 'file' ? readSecretFile(credential.name, place) : undefined
  if (raw === undefined || raw === '') return null
  const value = raw.trim()
  // The value becomes a header: a control character or a space run would let a source file split it (K-11).
  if (value.length === 0 || value.length > MAX_SECRET || !/^[\x21-\x7e]+(?: [\x21-\x7e]+)*$/.test(value)) {
    throw new AmbitError(
      'ERR_CREDENTIAL_SOURCE',
      `credential ${credential.name}`,
      `the value in ${credential.source} is not one line of printable ASCII of at most ${MAX_SECRET} characters`,
      'correct the source',
    )
  }
  return value
}

function readSecretFile(name: string, path: string): string | undefined {
  try {
    if (statSync(path).size > MAX_SECRET + 1024) return 'x'.repeat(MAX_SECRET + 1)
    return readFileSync(path, 'utf8')
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined
    throw new AmbitError(
      'ERR_CREDENTIAL_SOURCE',
      `credential ${name}`,
      messageOf(error),
      'make the file readable',
      {
        cause: error,
      },
    )
  }
}
