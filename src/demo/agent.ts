import { spawn } from 'node:child_process'
import { existsSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { makeDir } from '../lib/make-dir.ts'
import { AmbitError } from '../lib/errors.ts'

/** The agent of the demonstration: pinned to the byte by the registry's hashes. */
export const AGENT = {
  title: 'Codex CLI',
  package: '@openai/codex',
  version: '0.169.0',
  command: 'codex',
} as const

const HASHES: Readonly<Record<string, string>> = {
  '': 'sha512-KhzYlkKPxoNssR8CEm45IjqnFWn7UtlF4CiD3tOJPea51xBs7MaHy0UQG9GSbCqk6Lrjn5QdJDV0QD1/FgWlGw==',
  'linux-x64':
    'sha512-o05NyAOCDygSPRo1yinzxvkRSdmsZyBD9E7mbpmjRanSfM8lypqWtQgEo4XfNkwhuCR2aFu8mlGOsQGFXVbVww==',
  'linux-arm64':
    'sha512-NZ/DaQUpcQmxmqee7Z9uC1rzw3GhSbooawcaTe1LN5Yk+WlinUKGdTXJgClRT/9ogQEEM9TWxYzvxPfj5G/xFg==',
}

/** Installs the agent below `cache` on first use. @returns the path of its command */
export async function installAgent(
  cache: string,
  env: NodeJS.ProcessEnv,
  say: (text: string) => void,
): Promise<string> {
  const dir = join(cache, `${AGENT.command}-${AGENT.version}`)
  const command = join(dir, 'node_modules/.bin', AGENT.command)
  if (existsSync(command)) return command
  say(`installing ${AGENT.title} ${AGENT.version} from npm, once (about 400 MB on disk)`)
  const aside = `${dir}.${process.pid}`
  makeDir(aside)
  const started = Date.now()
  const pulse = setInterval(
    () => say(`still installing, ${Math.round((Date.now() - started) / 1000)} s`),
    5000,
  )
  try {
    writeLock(aside)
    await npm(aside, env)
    rmSync(dir, { recursive: true, force: true })
    renameSync(aside, dir)
  } finally {
    clearInterval(pulse)
    rmSync(aside, { recursive: true, force: true })
  }
  return command
}

/** `npm ci` installs what the lock says or nothing. No `resolved`: the user's own registry serves. */
function writeLock(dir: string): void {
  const platform = `linux-${process.arch}`
  const alias = `${AGENT.package}-${platform}`
  const own = `${AGENT.version}-${platform}`
  const dependencies = { [AGENT.package]: AGENT.version, [alias]: `npm:${AGENT.package}@${own}` }
  const root = { name: 'ambit-demo-agent', version: '1.0.0', dependencies }
  const packages = {
    '': root,
    [`node_modules/${AGENT.package}`]: {
      version: AGENT.version,
      integrity: HASHES[''],
      bin: { [AGENT.command]: 'bin/codex.js' },
    },
    [`node_modules/${alias}`]: { name: AGENT.package, version: own, integrity: HASHES[platform] },
  }
  writeFileSync(join(dir, 'package.json'), JSON.stringify(root))
  writeFileSync(
    join(dir, 'package-lock.json'),
    JSON.stringify({ name: root.name, version: root.version, lockfileVersion: 3, requires: true, packages }),
  )
}

/** Scripts of packages never run: they would run outside Ambit. */
function npm(dir: string, env: NodeJS.ProcessEnv): Promise<void> {
  const args = ['ci', '--ignore-scripts', '--omit=optional', '--no-audit', '--no-fund', '--loglevel=error']
  return new Promise((resolve, reject) => {
    const child = spawn('npm', args, { cwd: dir, env, stdio: ['ignore', 'ignore', 'pipe'] })
    let said = ''
    child.stderr.on('data', (chunk: Buffer) => {
      said = (said + chunk.toString('utf8')).slice(-2000)
    })
    child.once('error', () => reject(failed('npm is not installed', 'install Node 20 or newer with npm')))
    child.once('exit', (code) => {
      if (code === 0) resolve()
      else
        reject(
          failed(
            said.trim().split('\n')[0] || `npm ended with ${code}`,
            'check the connection to the npm registry',
          ),
        )
    })
  })
}

const failed = (why: string, remedy: string): AmbitError =>
  new AmbitError('ERR_INTERNAL', `installing ${AGENT.package}`, why, remedy)
