/** Small programs that a case carries as text. */

/** The system's own, which every session sees. */
export const PYTHON = '/usr/bin/python3'

/** One program, a line each. */
export const lines = (...text: readonly string[]): string => text.join('\n')
