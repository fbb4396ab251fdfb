/**
 * Rego modules and their configuration, loaded together: the shipped ones and those in `<config>/policies/`. A module
 * of the user's may join a shipped package (`package ambit.admission`) and add to its `deny` set; it cannot take
 * anything away, since a second definition of a complete rule is a conflict, and a conflict denies.
 */
import { closeSync, constants, fstatSync, openSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { AmbitError, errnoOf, messageOf } from '../lib/errors.ts'
import { native, type RegoEngine } from '../lib/native.ts'
import { installRoot, type Paths } from '../lib/paths.ts'
import { printable } from '../lib/printable.ts'

interface PolicyModule {
  /** Absolute. */
  readonly path: string
  readonly text: string
  /** `*_test.rego`: loaded for `ambit policy test` only. */
  readonly test: boolean
}

const MAX_MODULE_BYTES = 1024 * 1024

/** Directories of modules, the shipped one first. */
const policyDirs = (paths: Paths): string[] => [
  join(installRoot(), 'policies'),
  join(paths.config, 'policies'),
]

/** Every module, by directory and name. @throws AmbitError ERR_POLICY_INVALID when one cannot be read. */
function readModules(paths: Paths): PolicyModule[] {
  const modules = policyDirs(paths).flatMap((dir, index) =>
    listDir(dir, index === 0)
      .filter((name) => name.endsWith('.rego'))
      .map((name) => join(dir, name)),
  )
  return modules.map((path) => ({ path, text: readText(path), test: path.endsWith('_test.rego') }))
}

/** `<config>/policies/data.json`, which becomes `data`; `{}` when absent. */
function readPolicyData(paths: Paths): string {
  const path = join(paths.config, 'policies', 'data.json')
  return listDir(join(paths.config, 'policies'), false).includes('data.json') ? readText(path) : '{}'
}

/** Engines made before somebody asks (in a session host), by all that they were made of. Each is handed out once. */
const made: { readonly of: string; readonly engine: RegoEngine }[] = []

/** Makes one engine for each of `rules` of what stands there now; it is for the very same contents, or for nobody. */
export function makeEngines(paths: Paths, rules: readonly string[]): void {
  const modules = readModules(paths).filter(({ test }) => !test)
  const data = readPolicyData(paths)
  for (const rule of rules) {
    const engine = makeEngine(modules, data)
    // The first evaluation lays out the rules for all later ones; of its answer nothing is kept.
    guard(rule, () => engine.evalRule(rule, '{}'))
    made.push({ of: contentOf(modules, data), engine })
  }
}

/** An engine with all modules and data. @throws AmbitError ERR_POLICY_INVALID */
export function openPolicies(
  paths: Paths,
  options: { readonly tests: boolean } = { tests: false },
): RegoEngine {
  const modules = readModules(paths).filter(({ test }) => !test || options.tests)
  const data = readPolicyData(paths)
  const content = made.length > 0 ? contentOf(modules, data) : ''
  const ready = made.findIndex(({ of }) => of === content)
  return made.splice(ready, ready < 0 ? 0 : 1)[0]?.engine ?? makeEngine(modules, data)
}

const contentOf = (modules: readonly PolicyModule[], data: string): string => JSON.stringify([modules, data])

function makeEngine(modules: readonly PolicyModule[], data: string): RegoEngine {
  const Engine = native().RegoEngine
  const engine = new Engine()
  for (const { path, text } of modules) guard(path, () => engine.addPolicy(path, text))
  guard('data.json', () => engine.addDataJson(data))
  return engine
}

/** Parses every module, tests included. @throws AmbitError ERR_POLICY_INVALID naming the first that does not parse. */
export function checkPolicies(paths: Paths): { readonly path: string }[] {
  openPolicies(paths, { tests: true })
  return readModules(paths).map(({ path }) => ({ path }))
}

/**
 * The value of `rule` (`data.ambit.admission.decision`) as JSON; null when undefined, which denies.
 *
 * @throws AmbitError ERR_POLICY_INVALID, also when evaluation fails or there is no such rule.
 */
export function evaluatePolicy(rule: string, inputJson: string, paths: Paths): string | null {
  const engine = openPolicies(paths)
  return guard(rule, () => engine.evalRule(rule, inputJson))
}

function guard<T>(what: string, action: () => T): T {
  try {
    return action()
  } catch (error) {
    throw new AmbitError(
      'ERR_POLICY_INVALID',
      printable(what),
      policyMessage(error),
      'see ambit policy check',
      { cause: error },
    )
  }
}

/** One line: `admission.rego:12:5: expecting expression`. The engine quotes the source over several. */
export function policyMessage(error: unknown): string {
  const text = messageOf(error)
  const place = /--> (.+:\d+:\d+)/.exec(text)?.[1]
  const why = /error: ([\s\S]+)$/.exec(text)?.[1] ?? text.replace(/^rego: /, '')
  return printable([place, why.trim().replace(/\s*\n\s*/g, ' ')].filter(Boolean).join(': '))
}

function listDir(dir: string, required: boolean): string[] {
  try {
    return readdirSync(dir).toSorted()
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' && !required) return []
    throw unreadable(dir, error)
  }
}

function readText(path: string): string {
  let fd: number | undefined
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
    const stat = fstatSync(fd)
    if (!stat.isFile()) throw new Error('is not a regular file')
    if (stat.size > MAX_MODULE_BYTES) throw new Error(`is larger than ${MAX_MODULE_BYTES} bytes`)
    return new TextDecoder('utf-8', { fatal: true }).decode(readFileSync(fd))
  } catch (error) {
    throw unreadable(path, error)
  } finally {
    if (fd !== undefined) closeSync(fd)
  }
}

const unreadable = (path: string, cause: unknown): AmbitError =>
  new AmbitError(
    'ERR_POLICY_INVALID',
    printable(path),
    printable(messageOf(cause)),
    'correct or remove the file',
    { cause },
  )
