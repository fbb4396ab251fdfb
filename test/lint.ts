/** `./dev lint`: every rule of the repository that a machine can check, each with its time. Exit 1 if one fails. */
import { execFile } from 'node:child_process'
import { existsSync, globSync, readFileSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { promisify } from 'node:util'

const root = join(import.meta.dirname, '..')
const MOST_LINES = 40
const LONG_FILE = 400
const bin = (name: string): string => join(root, 'node_modules/.bin', name)

interface Step {
  readonly name: string
  /** Resolves with remarks that do not fail the step; rejects or throws with what is wrong. */
  readonly check: () => Promise<readonly string[]>
}

const steps: readonly Step[] = [
  { name: 'format (biome)', check: run(bin('biome'), ['format', '--colors=off', '.']) },
  { name: 'types (tsc)', check: run(bin('tsc'), ['-p', '.', '--pretty', 'false']) },
  { name: 'lint rules (oxlint)', check: run(bin('oxlint'), ['--type-aware', '--deny-warnings', '.']) },
  {
    name: 'import direction',
    check: run(bin('depcruise'), ['--config', '.dependency-cruiser.cjs', '--output-type', 'err', 'src']),
  },
  { name: 'generated files in sync', check: checkGenerated },
  { name: 'file size and documentation', check: checkSources },
  { name: 'format (cargo fmt)', check: run('cargo', ['fmt', '--check'], 'native') },
  {
    name: 'clippy',
    check: run('cargo', clippy('--workspace', '--all-targets', '--exclude', 'ambit-node'), 'native'),
  },
  // No crate of the workspace: build.rs compiles it by itself, for it needs a panic strategy of its own.
  {
    name: 'format (compat)',
    check: run('rustfmt', ['--edition=2024', '--check', 'launch/compat/lib.rs'], 'native'),
  },
  { name: 'clippy (compat)', check: run('clippy-driver', compat(), 'native') },
  // Without its tests: napi's exports look unused to a test build.
  { name: 'clippy (addon)', check: run('cargo', clippy('-p', 'ambit-node'), 'native') },
]

/** Release, so that dependencies' build scripts are shared with the build. */
function clippy(...scope: readonly string[]): readonly string[] {
  return ['clippy', '--release', '--locked', '--quiet', ...scope, '--', '-D', 'warnings']
}

function compat(): readonly string[] {
  const built = ['--edition=2024', '--crate-name=ambit_compat', '--crate-type=cdylib', '-Cpanic=abort']
  return [...built, '--emit=metadata', '--out-dir=target/lint', '-Dwarnings', 'launch/compat/lib.rs']
}

/** A step that is one program: its output is the complaint. */
function run(program: string, args: readonly string[], folder = '.'): Step['check'] {
  return async () => {
    // The npm tools need Node 24: ours comes first on PATH.
    const env = { ...process.env, PATH: `${join(process.execPath, '..')}${delimiter}${process.env.PATH}` }
    try {
      await promisify(execFile)(program, [...args], { cwd: join(root, folder), env, maxBuffer: 1 << 26 })
      return []
    } catch (error) {
      const { stdout, stderr, message } = error as { stdout?: string; stderr?: string; message: string }
      throw new Error(`${stdout ?? ''}${stderr ?? ''}`.trim() || message, { cause: error })
    }
  }
}

/** Files that are made from code must equal what the code makes now. */
async function checkGenerated(): Promise<readonly string[]> {
  const schemaModule = join(root, 'src/profile/schema.ts')
  const published = join(root, 'profiles/profile.schema.json')
  const { profileJsonSchema } = (await import(pathToFileURL(schemaModule).href)) as {
    profileJsonSchema: () => unknown
  }
  if (!existsSync(published)) throw new Error('profiles/profile.schema.json is missing')
  const made = JSON.stringify(profileJsonSchema())
  if (JSON.stringify(JSON.parse(readFileSync(published, 'utf8'))) !== made)
    throw new Error(
      'profiles/profile.schema.json is stale: run ./ambit profile schema > profiles/profile.schema.json',
    )
  return []
}

/** Remarks only: a long file wants a look for its second idea, an exported function wants a sentence. */
async function checkSources(): Promise<readonly string[]> {
  const sources = globSync(['src/**/*.ts', 'native/*/src/**/*.rs', 'test/**/*.ts'], { cwd: root })
  return sources.flatMap((file) => {
    const lines = readFileSync(join(root, file), 'utf8').split('\n')
    const bare = lines.filter((line, index) => isExport(file, line) && !isDocumented(lines, index))
    return [
      ...(lines.length > LONG_FILE ? [`${file}: ${lines.length} lines; look for its second idea`] : []),
      ...bare.map((line) => `${file}: no sentence above: ${line.slice(0, 70)}`),
    ]
  })
}

const isExport = (file: string, line: string): boolean =>
  file.startsWith('src/') && /^export (async )?(function|class) /.test(line)

const isDocumented = (lines: readonly string[], index: number): boolean =>
  /\*\/\s*$|^\s*\/\//.test(lines[index - 1] ?? '')

let failed = 0
for (const { name, check } of steps) {
  const started = performance.now()
  try {
    const remarks = await check()
    console.log(`  ✓ ${name} ${seconds(started)}`)
    for (const remark of remarks) console.log(`    · ${remark}`)
  } catch (error) {
    failed += 1
    console.log(`  ✗ ${name} ${seconds(started)}`)
    console.log(indent((error as Error).message))
  }
}
console.log(failed ? `lint: ${failed} of ${steps.length} steps failed` : `lint: ${steps.length} steps passed`)
process.exitCode = failed ? 1 : 0

function seconds(started: number): string {
  return `${((performance.now() - started) / 1000).toFixed(1)}s`
}

/** The head of a complaint: a whole formatting difference would bury the other steps. */
function indent(text: string): string {
  const lines = text.split('\n')
  const more = lines.length > MOST_LINES ? [`… ${lines.length - MOST_LINES} more lines`] : []
  return [...lines.slice(0, MOST_LINES), ...more]
    .map((line) => `    ${line.replaceAll(`${root}/`, '')}`)
    .join('\n')
}
