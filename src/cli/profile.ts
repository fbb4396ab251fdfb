import { mkdirSync, mkdtempSync, realpathSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { AmbitError } from '../lib/errors.ts'
import { printable, printableJson } from '../lib/printable.ts'
import { compilePlan } from '../profile/compile.ts'
import { listProfiles, loadProfile } from '../profile/load.ts'
import { profileJsonSchema } from '../profile/schema.ts'
import { type Arguments, type Command, type Context, flag, usageError } from './command.ts'

export const command: Command = {
  name: 'profile',
  usage: 'profile ls | show P | check FILE… | schema',
  summary: 'list, show and check profiles',
  details: `
ls            the profiles by name: yours (in the configuration directory) before the shipped ones
show P        the document in force as JSON, "extends" applied; with --json its file and origin beside it
check FILE…   says what is wrong, with line and column; exit 1 when anything is
schema        the JSON Schema, for editors
`,
  options: {
    json: { type: 'boolean', help: 'the list as JSON; for show, where the document comes from, too' },
  },
  run: async (args, context) => {
    const [verb, ...names] = args.words
    if (verb === 'ls') return list(args, context)
    if (verb === 'show' && names.length === 1) return show(names[0] ?? '', args, context)
    if (verb === 'check' && names.length > 0) return check(names, context)
    if (verb === 'schema') return print(context, profileJsonSchema())
    throw usageError(command, 'say ls, show P, check FILE or schema')
  },
}

function print(context: Context, value: unknown): number {
  context.out(printableJson(JSON.stringify(value, null, 2)))
  return 0
}

function list(args: Arguments, context: Context): number {
  const profiles = listProfiles(context.paths)
  if (flag(args, 'json')) return print(context, profiles)
  for (const profile of profiles)
    context.out(`${profile.name.padEnd(12)} ${profile.source.padEnd(8)} ${profile.title}`)
  return 0
}

function show(name: string, args: Arguments, context: Context): number {
  const document = loadProfile(name, context.paths)
  return print(context, flag(args, 'json') ? document : document.resolved)
}

/** Compiled against a scratch project: where the person stands has nothing to do with the file. */
function check(files: readonly string[], context: Context): number {
  const scratch = realpathSync(mkdtempSync(join(tmpdir(), 'ambit-check-')))
  const variables = {
    project: join(scratch, 'project'),
    workspace: join(scratch, 'workspace'),
    home: scratch,
  }
  mkdirSync(variables.project)
  try {
    return files.filter((file) => !checkOne(file, variables, context)).length > 0 ? 1 : 0
  } finally {
    rmSync(scratch, { recursive: true, force: true })
  }
}

function checkOne(file: string, variables: Parameters<typeof compilePlan>[1], context: Context): boolean {
  try {
    compilePlan(loadProfile(file, context.paths), variables, context.paths)
    context.out(`${printable(file)}: ok`)
    return true
  } catch (error) {
    if (!(error instanceof AmbitError)) throw error
    context.err(`ambit: ${error.message}`)
    return false
  }
}
