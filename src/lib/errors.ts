/** Stable error codes. They are public API: scripts and tests match on them. */
export type ErrorCode =
  | 'ERR_USAGE'
  | 'ERR_PROFILE_INVALID'
  | 'ERR_PROFILE_NOT_FOUND'
  | 'ERR_POLICY_INVALID'
  | 'ERR_POLICY_DENIED'
  | 'ERR_APPROVAL_REQUIRED'
  | 'ERR_SHEET_REFUSED'
  | 'ERR_COMMAND_NOT_FOUND'
  | 'ERR_RUNTIME_NOT_ENFORCED'
  | 'ERR_RUNTIME_MISSING'
  | 'ERR_RUNTIME_FAILED'
  | 'ERR_PATH_FORBIDDEN'
  | 'ERR_JOURNAL_FAILED'
  | 'ERR_JOURNAL_CORRUPT'
  | 'ERR_LOG_INCONSISTENT'
  | 'ERR_LOG_LOCKED'
  | 'ERR_LOG_FAILED'
  | 'ERR_KEY_INVALID'
  | 'ERR_DAEMON_UNREACHABLE'
  | 'ERR_DAEMON_PROTOCOL'
  | 'ERR_DAEMON_PEER'
  | 'ERR_SESSION_NOT_FOUND'
  | 'ERR_REVIEW_CONFLICT'
  | 'ERR_CREDENTIAL_SOURCE'
  | 'ERR_INPUT_INVALID'
  | 'ERR_INTERNAL'

/** How `ambit` ends for an error code: 125 Ambit failed, 126 refused, 127 not found. */
const EXIT: Partial<Record<ErrorCode, number>> = {
  ERR_USAGE: 2,
  ERR_POLICY_DENIED: 126,
  ERR_APPROVAL_REQUIRED: 126,
  ERR_SHEET_REFUSED: 126,
  ERR_PATH_FORBIDDEN: 126,
  ERR_COMMAND_NOT_FOUND: 127,
}

/**
 * An error a person reads as `ambit: what failed: why; what to do`.
 *
 * `what`, `why` and `remedy` never hold secrets. Attacker-controlled text in them must have gone through
 * `printable` first.
 */
export class AmbitError extends Error {
  readonly code: ErrorCode
  readonly what: string
  readonly why: string
  readonly remedy: string | undefined

  constructor(code: ErrorCode, what: string, why: string, remedy?: string, options?: ErrorOptions) {
    super(`${what}: ${why}${remedy ? `; ${remedy}` : ''}`, options)
    this.name = 'AmbitError'
    this.code = code
    this.what = what
    this.why = why
    this.remedy = remedy
  }

  get exitCode(): number {
    return EXIT[this.code] ?? 125
  }
}

/** The message of anything thrown, for the `why` of an AmbitError. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

/** The errno name (`ENOENT`) of a Node system error, or undefined. */
export function errnoOf(error: unknown): string | undefined {
  const code = (error as { code?: unknown } | null)?.code
  return typeof code === 'string' ? code : undefined
}
