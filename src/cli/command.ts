/** What a command file exports; `main.ts` does the rest. No logic lives here. */
import { parseArgs, type ParseArgsOptionsConfig } from 'node:util'
import { AmbitError, errnoOf, messageOf } from '../lib/errors.ts'
import type { Paths } from '../lib/paths.ts'
import { printable } from '../lib/printable.ts'
import type { Front } from '../session/front.ts'

export interface Context {
  readonly paths: Paths
  readonly env: NodeJS.ProcessEnv
  readonly cwd: string
  /** Colours: only on a terminal, and NO_COLOR wins. */
  readonly color: boolean
  /** Who stands at the terminal, when it is not this process. */
  readonly front?: Front
  out(text: string): void
  err(text: string): void
}

export interface Option {
  readonly type: 'string' | 'boolean'
  readonly short?: string
  readonly value?: string
  readonly help: string
}

export interface Command {
  readonly name: string
  /** After `ambit `, e.g. `run [OPTIONS] -- CMD…`. */
  readonly usage: string
  readonly summary: string
  /** Man-page body: what it does, files, exit status, examples. */
  readonly details: string
  readonly options: Readonly<Record<string, Option>>
  run(args: Arguments, context: Context): Promise<number>
}

export interface Arguments {
  readonly flags: Readonly<Record<string, string | boolean | undefined>>
  readonly words: readonly string[]
  /** What stands after `--`; null when there was none. */
  readonly rest: readonly string[] | null
}

/** Parses `argv` for `command`. @throws AmbitError ERR_USAGE */
export function parseArguments(command: Command, argv: readonly string[]): Arguments {
  const cut = argv.indexOf('--')
  const own = cut < 0 ? argv : argv.slice(0, cut)
  const options: ParseArgsOptionsConfig = { help: { type: 'boolean', short: 'h' } }
  for (const [name, option] of Object.entries(command.options)) {
    options[name] = { type: option.type, ...(option.short ? { short: option.short } : {}) }
  }
  try {
    const parsed = parseArgs({ args: [...own], options, allowPositionals: true, strict: true })
    return {
      flags: parsed.values as Arguments['flags'],
      words: parsed.positionals,
      rest: cut < 0 ? null : argv.slice(cut + 1),
    }
  } catch (error) {
    throw usageError(command, messageOf(error).split('. ')[0] ?? 'wrong arguments')
  }
}

export const usageError = (command: Pick<Command, 'name'>, why: string): AmbitError =>
  new AmbitError('ERR_USAGE', command.name, why, `see ambit ${command.name} --help`)

/** Of commands that take options only. @throws AmbitError ERR_USAGE */
export function noWords(command: Pick<Command, 'name'>, args: Arguments): void {
  const [word] = [...args.words, ...(args.rest ?? [])]
  if (word !== undefined) throw usageError(command, `takes no ${printable(word, 80)}`)
}

/** The value of a string option, or undefined. */
export const text = (args: Arguments, name: string): string | undefined => {
  const value = args.flags[name]
  return typeof value === 'string' ? value : undefined
}

export const flag = (args: Arguments, name: string): boolean => args.flags[name] === true

/** Man-page-like help of one command. */
export function helpOf(command: Command): string {
  const rows = Object.entries(command.options).map(([name, option]) => {
    const short = option.short ? `-${option.short}, ` : '    '
    const value = option.type === 'string' ? ` ${option.value ?? 'VALUE'}` : ''
    return [`  ${short}--${name}${value}`, option.help] as const
  })
  rows.push(['  -h, --help', 'this text'])
  const width = Math.max(...rows.map(([left]) => left.length)) + 2
  return [
    `ambit ${command.name}: ${command.summary}`,
    '',
    `usage: ambit ${command.usage}`,
    '',
    command.details.trim(),
    '',
    'options:',
    ...rows.map(([left, help]) => left.padEnd(width) + help),
    '',
  ].join('\n')
}

const NOT_OURS = 'make that place writable for yourself, or set AMBIT_HOME to a directory that is'
const FULL = 'free some space there and start again'
const DESCRIPTORS = 'raise the limit on open files (ulimit -n)'

/** What to do about a machine that refuses, where no part of Ambit has said it better. */
const REMEDIES: Readonly<Record<string, string>> = {
  EACCES: NOT_OURS,
  EPERM: NOT_OURS,
  EROFS: NOT_OURS,
  ENOSPC: FULL,
  EDQUOT: FULL,
  EMFILE: DESCRIPTORS,
  ENFILE: DESCRIPTORS,
  ENOMEM: 'free some memory and start again',
}

const PROFILE = 'mend it there (docs/profiles.md, and ambit profile schema for editors)'

function explained(error: unknown): unknown {
  if (error instanceof AmbitError && error.code === 'ERR_PROFILE_INVALID' && !error.remedy)
    return new AmbitError(error.code, error.what, error.why, PROFILE, { cause: error })
  const remedy = error instanceof AmbitError ? undefined : REMEDIES[errnoOf(error) ?? '']
  if (!remedy) return error
  const { path } = error as NodeJS.ErrnoException
  return new AmbitError('ERR_RUNTIME_FAILED', path ?? 'the system refused', messageOf(error), remedy, {
    cause: error,
  })
}

/** What a person reads of an error, and the exit status that goes with it. */
export function failureOf(thrown: unknown): { readonly text: string; readonly exit: number } {
  const error = explained(thrown)
  const known = error instanceof AmbitError
  const text = `ambit: ${messageOf(error)} [${known ? error.code : 'ERR_INTERNAL'}]\n`
  const stack = !known && process.env.AMBIT_DEBUG ? `${(error as Error).stack}\n` : ''
  return { text: text + stack, exit: known ? error.exitCode : 125 }
}
