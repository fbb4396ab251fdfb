import { existsSync, readdirSync, realpathSync } from 'node:fs'
import { basename, dirname, join, sep } from 'node:path'
import { readBeginning, readSmallFile } from '../../lib/small-file.ts'
import { parseJson } from './locate.ts'
import { head, isElf } from './shebang.ts'

/** A directory (or single file) that a program needs, as people install it. */
export interface Tree {
  readonly path: string
  readonly kind:
    | 'system'
    | 'node-package'
    | 'node'
    | 'python'
    | 'venv'
    | 'user-site'
    | 'brew'
    | 'nix'
    | 'prefix'
    | 'file'
  /** Publisher's name and version, where the tree says so. */
  readonly name?: string
  readonly version?: string
  /** What the digest covers, where that is less than the tree. */
  readonly measured?: readonly string[]
}

/** Shown to every session by system-files.ts. */
const SYSTEM = ['/usr', '/bin', '/sbin', '/lib', '/lib32', '/lib64', '/libx32']

export const isSystem = (path: string): boolean =>
  SYSTEM.some((dir) => path === dir || path.startsWith(dir + sep))

/**
 * The trees that the program at `real` (no links in it) needs; the first one names the program.
 * `seen` is the path before its last links were followed: a venv is recognised by where its `python` link lies.
 */
export function treesOf(real: string, seen: string): Tree[] {
  if (isSystem(seen) && isSystem(real)) return [...nodePackage(real), { kind: 'system', path: real }]
  const trees = [...venvTrees(seen, real), ...nodePackage(real)]
  const own = installation(real)
  if (own && !trees.some((tree) => contains(tree.path, own.path))) trees.push(own)
  return trees
}

const contains = (dir: string, path: string): boolean => path === dir || path.startsWith(dir + sep)

/** The installation that a binary or script belongs to, by its layout. */
function installation(real: string): Tree | null {
  if (isSystem(real)) return { kind: 'system', path: real }
  const nix = /^(\/nix\/store)\//.exec(real)
  if (nix?.[1]) return { kind: 'nix', path: nix[1] }
  const brew = /^(.*\/\.?linuxbrew|.*\/homebrew)\/Cellar\/([^/]+)\/([^/]+)\//.exec(real)
  if (brew?.[1] && brew[2] && brew[3])
    return {
      kind: 'brew',
      path: brew[1],
      name: brew[2],
      version: brew[3],
      measured: [`${brew[1]}/Cellar/${brew[2]}/${brew[3]}`],
    }
  const opt = /^\/(opt|srv)\/[^/]+/.exec(real)
  if (opt) return { kind: 'prefix', path: opt[0] }
  const bin = dirname(real)
  const prefix = dirname(bin)
  if (basename(bin) === 'bin') {
    if (basename(real).startsWith('node') && existsSync(join(prefix, 'lib/node_modules'))) {
      return { kind: 'node', path: prefix, measured: [real] }
    }
    const python = /^python(\d+(?:\.\d+)?)?$/.exec(basename(real))
    if (python && pythonVersion(prefix)) {
      const version = pythonVersion(prefix)
      return { kind: 'python', path: prefix, measured: [real], name: 'python', ...(version && { version }) }
    }
    if (['lib', 'libexec', 'share'].some((name) => existsSync(join(prefix, name))))
      return { kind: 'prefix', path: prefix }
  }
  return { kind: 'file', path: real }
}

/** `3.12` when `prefix/lib/python3.12` is there. */
function pythonVersion(prefix: string): string | null {
  const lib = names(join(prefix, 'lib')).find((name) => /^python\d+\.\d+$/.test(name))
  return lib ? lib.slice('python'.length) : null
}

/** The npm package of a script, with what it may load: nested and hoisted dependencies. */
function nodePackage(real: string): Tree[] {
  const at = packageDir(dirname(real))
  if (!at) return []
  const manifest = manifestOf(at)
  const named = naming(manifest?.name, manifest?.version)
  const modules = outermostModules(at)
  if (!modules || isGlobal(modules)) return [{ kind: 'node-package', path: at, ...named }]
  return [{ kind: 'node-package', path: modules, measured: measuredPackages(at, modules), ...named }]
}

type Manifest = Readonly<Record<string, unknown>>

const manifestOf = (dir: string): Manifest | null =>
  (parseJson(join(dir, 'package.json'))?.value ?? null) as Manifest | null

/** npm's own bound; what is longer names nobody, and would fill the sheet. */
const MOST_NAME = 214

/** Of a publisher's words on a package those that can be its name and version. */
function naming(name: unknown, version: unknown): Pick<Tree, 'name' | 'version'> {
  const usable = (text: unknown): text is string => typeof text === 'string' && text.length <= MOST_NAME
  return { ...(usable(name) && { name }), ...(usable(version) && { version }) }
}

/** Directories between a script and its package. */
const MOST_LEVELS = 40

/** Nearest directory upwards whose package.json has a name (`dist/package.json` with only a `type` has none). */
function packageDir(dir: string, levels = MOST_LEVELS): string | null {
  if (typeof manifestOf(dir)?.name === 'string') return dir
  const parent = dirname(dir)
  if (parent === dir || levels === 0 || basename(dir) === 'node_modules') return null
  return packageDir(parent, levels - 1)
}

function outermostModules(dir: string): string | null {
  const parts = dir.split(sep)
  const at = parts.indexOf('node_modules')
  if (at < 0) return null
  const modules = parts.slice(0, at + 1).join(sep)
  // pnpm: …/.pnpm/name@version/node_modules/name; its store is the unit that resolves.
  const store = parts.indexOf('.pnpm')
  return store > 0 && store < at ? parts.slice(0, store).join(sep) : modules
}

/** npm's global directory nests each package's dependencies in it; any other layout hoists them beside it. */
function isGlobal(modules: string): boolean {
  if (
    ['.package-lock.json', '.modules.yaml', '.yarn-integrity', '.pnpm'].some((name) =>
      existsSync(join(modules, name)),
    )
  )
    return false
  return basename(dirname(modules)) === 'lib'
}

/** Dependencies that manifests name, and their length; an agent with all it loads has some thousand, in a few MiB. */
const MOST_NAMED = 50_000
const MOST_MANIFESTS = 64 << 20

/**
 * The package and everything its manifests make Node resolve, so that a digest tells of all code that may load. Where
 * they name more than anybody installs, all of `modules`, which measureTrees bounds.
 */
function measuredPackages(start: string, modules: string): string[] {
  const found = new Set<string>()
  const queue = [start]
  let named = 0
  let length = 0
  for (let dir = queue.pop(); dir; dir = queue.pop()) {
    if (found.has(dir)) continue
    found.add(dir)
    const manifest = parseJson(join(dir, 'package.json'))
    const wanted = dependencyNames(manifest?.value as Manifest | null)
    named += wanted.length
    length += manifest?.length ?? 0
    if (named > MOST_NAMED || length > MOST_MANIFESTS) return [modules]
    for (const name of wanted) {
      const resolved = resolvePackage(name, dir, modules)
      if (resolved) queue.push(resolved)
    }
  }
  const all = [...found].sort()
  return all.filter((dir) => !all.some((other) => other !== dir && contains(other, dir)))
}

function dependencyNames(manifest: Manifest | null): string[] {
  return ['dependencies', 'optionalDependencies', 'peerDependencies']
    .flatMap((field) => {
      const value = manifest?.[field]
      return value && typeof value === 'object' ? Object.keys(value) : []
    })
    .filter((name) => /^(@[\w.~-]+\/)?[\w.~-]+$/.test(name) && !name.startsWith('.'))
}

/** Node's lookup, bounded by `modules`. */
function resolvePackage(name: string, from: string, modules: string): string | null {
  for (let dir = from; contains(dirname(modules), dir); dir = dirname(dir)) {
    const at = basename(dir) === 'node_modules' ? join(dir, name) : join(dir, 'node_modules', name)
    if (existsSync(join(at, 'package.json'))) return realpathSync(at)
    if (dir === dirname(modules)) break
  }
  return null
}

/** `V/bin/x` with `V/pyvenv.cfg`: the environment; its base interpreter follows from the `python` link. */
function venvTrees(seen: string, real: string): Tree[] {
  const script = [seen, real].find((path) => existsSync(join(dirname(dirname(path)), 'pyvenv.cfg')))
  if (script === undefined) return isElf(head(real, 4)) ? [] : userSite(seen)
  const root = dirname(dirname(script))
  const lib = names(join(root, 'lib')).find((name) => name.startsWith('python'))
  const site = join(root, 'lib', lib ?? 'python3', 'site-packages')
  return [{ kind: 'venv', path: root, ...distribution(site, basename(script)) }]
}

/** `pip install --user` puts the script into ~/.local/bin and the code beside it, in lib/pythonX.Y/site-packages. */
function userSite(seen: string): Tree[] {
  if (basename(dirname(seen)) !== 'bin' || isSystem(seen)) return []
  const lib = join(dirname(dirname(seen)), 'lib')
  for (const python of names(lib).filter((name) => /^python\d/.test(name))) {
    const site = join(lib, python, 'site-packages')
    const named = distribution(site, basename(seen))
    if (named.name) return [{ kind: 'user-site', path: site, ...named }]
  }
  return []
}

/** Looked through for the one that brought a script: characters of one file, and of all. */
const MOST_RECORD = 4 << 20
const MOST_RECORDS = 256 << 20
/** Of entry points and of the lines in METADATA that name it. */
const MOST_HEAD = 64 << 10

/** The distribution whose entry points or file record name the script (PyPA "Recording installed projects"). */
function distribution(site: string, script: string): { name?: string; version?: string } {
  let looked = 0
  for (const info of names(site).filter((name) => name.endsWith('.dist-info'))) {
    const entries = beginningOf(join(site, info, 'entry_points.txt'))
    const record = readSmallFile(join(site, info, 'RECORD'), MOST_RECORD) ?? ''
    looked += entries.length + record.length
    if (looked > MOST_RECORDS) return {}
    const owns =
      entries.split('\n').some((line) => line.split('=', 1)[0]?.trim() === script) ||
      record.includes(`/bin/${script},`)
    if (!owns) continue
    const metadata = beginningOf(join(site, info, 'METADATA'))
    const field = (form: RegExp): string | undefined => form.exec(metadata)?.[1]?.trim()
    return naming(field(/^Name: (.+)$/m), field(/^Version: (.+)$/m))
  }
  return {}
}

function names(dir: string): string[] {
  try {
    return readdirSync(dir)
  } catch {
    return [] // absent: there is no such layout
  }
}

const beginningOf = (path: string): string => readBeginning(path, MOST_HEAD)?.toString('utf8') ?? ''
