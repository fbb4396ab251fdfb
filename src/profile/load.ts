/** Finds, reads and parses profile documents, and applies `extends`. */
import { X509Certificate } from 'node:crypto'
import { closeSync, constants, fstatSync, openSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { AmbitError, errnoOf, messageOf } from '../lib/errors.ts'
import { installRoot, type Paths } from '../lib/paths.ts'
import { printable } from '../lib/printable.ts'
import { narrow } from './extends.ts'
import type { ProfileOrigin } from './plan.ts'
import { PROFILE_NAME, type ProfileSource, profileSchema } from './schema.ts'
import { MAX_YAML_BYTES, type Path, parseYaml, type YamlDocument } from './yaml.ts'

/** A profile as written, valid by its schema, with everything that it extends folded in. */
export interface ProfileDocument {
  /** `ca` files are replaced by their PEM text. */
  readonly resolved: ProfileSource
  readonly origin: ProfileOrigin
  /** Absolute path of the file. */
  readonly file: string
  /** `profile.yaml:12:5 network[3].host`, for errors found later. */
  readonly place: (path: Path) => string
}

export interface ProfileListing {
  readonly name: string
  readonly source: ProfileOrigin
  readonly title: string
}

const MAX_CHAIN = 8
const MAX_PEM_BYTES = 64 * 1024

/**
 * @param nameOrPath a name (`writer`: the user's own before the shipped one) or a path (has a `/` or ends in .yaml).
 * @throws AmbitError ERR_PROFILE_NOT_FOUND, ERR_PROFILE_INVALID
 */
export function loadProfile(nameOrPath: string, paths: Paths): ProfileDocument {
  return loadChain(find(nameOrPath, paths, []), paths, [])
}

/** The profiles that a name finds, the user's own first. A file that does not load is listed with the reason. */
export function listProfiles(paths: Paths): ProfileListing[] {
  const listed = new Map<string, ProfileListing>()
  for (const { dir, origin } of searchPath(paths)) {
    for (const entry of directoryNames(dir)) {
      const name = entry.slice(0, -'.yaml'.length)
      if (!entry.endsWith('.yaml') || !PROFILE_NAME.test(name) || listed.has(name)) continue
      listed.set(name, { name, source: origin, title: titleOf(name, paths) })
    }
  }
  return [...listed.values()].toSorted((a, b) => a.name.localeCompare(b.name, 'en'))
}

function titleOf(name: string, paths: Paths): string {
  try {
    return printable(loadProfile(name, paths).resolved.metadata.title ?? '')
  } catch (error) {
    return `(${messageOf(error)})`
  }
}

interface Found {
  readonly file: string
  readonly origin: ProfileOrigin
  /** The name it was found by; the document must carry the same, since policy goes by names. */
  readonly name: string | null
}

const searchPath = (paths: Paths): { dir: string; origin: ProfileOrigin }[] => [
  { dir: join(paths.config, 'profiles'), origin: 'yours' },
  { dir: join(installRoot(), 'profiles'), origin: 'shipped' },
]

/** `seen` files are passed over: `yours/writer.yaml` may extend the shipped `writer`. */
function find(nameOrPath: string, paths: Paths, seen: readonly string[]): Found {
  if (nameOrPath.includes('/') || /\.ya?ml$/.test(nameOrPath)) {
    return { file: resolve(nameOrPath), origin: 'file', name: null }
  }
  if (!PROFILE_NAME.test(nameOrPath)) {
    throw new AmbitError(
      'ERR_PROFILE_NOT_FOUND',
      `profile "${printable(nameOrPath, 80)}"`,
      'is no name of a profile',
      'see ambit profile ls, or name a file',
    )
  }
  for (const { dir, origin } of searchPath(paths)) {
    const file = join(dir, `${nameOrPath}.yaml`)
    if (directoryNames(dir).includes(`${nameOrPath}.yaml`) && !seen.includes(file))
      return { file, origin, name: nameOrPath }
  }
  throw new AmbitError(
    'ERR_PROFILE_NOT_FOUND',
    `profile "${nameOrPath}"`,
    seen.some((file) => file.endsWith(`/${nameOrPath}.yaml`))
      ? 'extends itself'
      : 'there is none of that name',
    'see ambit profile ls',
  )
}

function directoryNames(dir: string): string[] {
  try {
    return readdirSync(dir)
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return []
    // An unreadable directory of profiles must not fall through to another profile of the same name.
    throw new AmbitError('ERR_PROFILE_INVALID', printable(dir), messageOf(error), undefined, { cause: error })
  }
}

function loadChain(found: Found, paths: Paths, seen: readonly string[]): ProfileDocument {
  const own = loadOne(found)
  const parent = own.resolved.spec.extends
  if (parent === undefined) return own
  const chain = [...seen, found.file]
  if (chain.length > MAX_CHAIN)
    throw invalid(own.place(['spec', 'extends']), `more than ${MAX_CHAIN} profiles in a row`)
  const base = loadChain(find(parent, paths, chain), paths, chain)
  return narrow(base, own)
}

/** The last documents, by file and text: in a session host the profile is parsed before somebody asks for it. */
const parsed = new Map<string, { readonly yaml: YamlDocument; readonly source: ProfileSource }>()
const MOST_PARSED = 16

function parseProfile(text: string, file: string): { yaml: YamlDocument; source: ProfileSource } {
  const key = `${file}\0${text}`
  const known = parsed.get(key)
  if (known) return known
  const yaml = parseYaml(text, file)
  const fresh = { yaml, source: validate(yaml) }
  if (parsed.size < MOST_PARSED) parsed.set(key, fresh)
  return fresh
}

function loadOne(found: Found): ProfileDocument {
  const { yaml, source: resolved } = parseProfile(readText(found.file, MAX_YAML_BYTES), found.file)
  if (found.name !== null && resolved.metadata.name !== found.name) {
    throw invalid(
      yaml.place(['metadata', 'name']),
      `is "${resolved.metadata.name}" in a file named ${found.name}.yaml`,
    )
  }
  return {
    resolved: inlineRoots(resolved, found.file, yaml),
    origin: found.origin,
    file: found.file,
    place: yaml.place,
  }
}

function validate(yaml: YamlDocument): ProfileSource {
  // One parse a process: generating code for it costs more than it saves.
  const result = profileSchema.safeParse(yaml.value, { jitless: true })
  if (result.success) return result.data
  const lines = result.error.issues.slice(0, 10).flatMap((issue) => {
    const path = issue.path.map((step) => (typeof step === 'number' ? step : String(step)))
    if (issue.code === 'unrecognized_keys') {
      return issue.keys.map((key) => `${yaml.placeOfKey([...path, key])}: no such key`)
    }
    return [`${yaml.place(path)}: ${explain(issue)}`]
  })
  const [first = '', ...more] = lines.toSorted(byPlace)
  const split = first.indexOf(': ')
  throw invalid(first.slice(0, split), [first.slice(split + 2), ...more].join('\n  '))
}

/** Lines of one file in the order of their places. */
function byPlace(a: string, b: string): number {
  const numbers = (text: string): number[] => (/:(\d+):(\d+)/.exec(text) ?? []).slice(1).map(Number)
  const [lineA = 0, columnA = 0] = numbers(a)
  const [lineB = 0, columnB = 0] = numbers(b)
  return lineA - lineB || columnA - columnB
}

interface Issue {
  readonly code?: string | undefined
  readonly message: string
  readonly input?: unknown
  readonly issues?: readonly { readonly message: string }[]
}

/** A refusal in the profile author's words. */
function explain(issue: Issue): string {
  if (issue.message.endsWith('received null'))
    return 'is empty: write [] or leave the key out; both allow nothing'
  const text = issue.code === 'invalid_key' ? (issue.issues?.[0]?.message ?? issue.message) : issue.message
  return printable(text.replace(/^Invalid (?:input|option|string): /, ''))
}

/** Reads each rule's `ca` file, relative to the profile that names it, and puts its text in its place. */
function inlineRoots(source: ProfileSource, file: string, yaml: YamlDocument): ProfileSource {
  if (!source.spec.network?.some((rule) => rule.ca !== undefined)) return source
  const network = source.spec.network.map((rule, index) => {
    if (rule.ca === undefined) return rule
    const place = yaml.place(['spec', 'network', index, 'ca'])
    return { ...rule, ca: parseRoots(readText(resolve(dirname(file), rule.ca), MAX_PEM_BYTES, place), place) }
  })
  return { ...source, spec: { ...source.spec, network } }
}

/** Certificates and nothing else: a key in this file would be one more copy of it. */
function parseRoots(pem: string, place: string): string {
  const blocks = pem.match(/-----BEGIN [A-Z ]+-----[\s\S]*?-----END [A-Z ]+-----/g) ?? []
  if (blocks.length === 0) throw invalid(place, 'has no PEM certificate')
  for (const block of blocks) {
    if (!block.startsWith('-----BEGIN CERTIFICATE-----'))
      throw invalid(place, 'holds something other than certificates')
    try {
      new X509Certificate(block)
    } catch (error) {
      throw invalid(place, `has a certificate that does not parse: ${printable(messageOf(error), 120)}`)
    }
  }
  return `${blocks.join('\n')}\n`
}

function readText(file: string, limit: number, place = printable(file)): string {
  let fd: number | undefined
  try {
    fd = openSync(file, constants.O_RDONLY | constants.O_NONBLOCK) // a FIFO must not hold us up
    const stat = fstatSync(fd)
    if (!stat.isFile()) throw invalid(place, 'is not a regular file')
    if (stat.size > limit) throw invalid(place, `is larger than ${limit} bytes`)
    return new TextDecoder('utf-8', { fatal: true }).decode(readFileSync(fd))
  } catch (error) {
    if (error instanceof AmbitError) throw error
    if (errnoOf(error) === 'ENOENT') {
      throw place === printable(file)
        ? new AmbitError('ERR_PROFILE_NOT_FOUND', place, 'no such file', 'see ambit profile ls for names')
        : new AmbitError('ERR_PROFILE_INVALID', place, 'no such file', 'paths are relative to the profile')
    }
    throw new AmbitError('ERR_PROFILE_INVALID', place, printable(messageOf(error)), undefined, {
      cause: error,
    })
  } finally {
    if (fd !== undefined) closeSync(fd)
  }
}

const invalid = (place: string, why: string): AmbitError => new AmbitError('ERR_PROFILE_INVALID', place, why)
