import { execFile } from 'node:child_process'
import { basename } from 'node:path'
import { promisify } from 'node:util'
import { AmbitError, messageOf } from '../../lib/errors.ts'
import { printable } from '../../lib/printable.ts'

const MAX_OUTPUT = 64 << 20

/** Runs a host program in the C locale and gives its output. Throws ERR_RUNTIME_FAILED with its last words. */
export async function runTool(path: string, args: readonly string[], cwd = '/'): Promise<string> {
  const env = { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C', DEBIAN_FRONTEND: 'noninteractive' }
  try {
    const { stdout } = await promisify(execFile)(path, [...args], { cwd, env, maxBuffer: MAX_OUTPUT })
    return stdout
  } catch (error) {
    const said = (error as { stderr?: string }).stderr?.trim().split('\n').at(-1)
    throw new AmbitError(
      'ERR_RUNTIME_FAILED',
      `running ${basename(path)}`,
      printable(said || messageOf(error), 300),
      undefined,
      { cause: error },
    )
  }
}
