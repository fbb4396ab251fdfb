/** A throw-away home, project and AMBIT_HOME, and profiles compiled from text within them. */
import { mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import assert from 'node:assert/strict'
import { AmbitError, type ErrorCode } from '../../src/lib/errors.ts'
import { type Paths, resolvePaths } from '../../src/lib/paths.ts'
import { compilePlan } from '../../src/profile/compile.ts'
import { loadProfile, type ProfileDocument } from '../../src/profile/load.ts'
import type { Plan } from '../../src/profile/plan.ts'
import type { Variables } from '../../src/profile/variables.ts'

export class World {
  readonly dir = realpathSync(mkdtempSync(join(tmpdir(), 'ambit-profile-')))
  readonly home = join(this.dir, 'home')
  readonly project = join(this.home, 'ledger')
  readonly workspace = join(this.home, 'ambit', 'ledger')
  readonly paths: Paths = resolvePaths({ AMBIT_HOME: join(this.dir, 'ambit') })

  constructor() {
    mkdirSync(this.project, { recursive: true })
  }

  /** Writes a file below the world's directory, parents included; returns its path. */
  write(name: string, content: string): string {
    const path = join(this.dir, name)
    mkdirSync(dirname(path), { recursive: true })
    writeFileSync(path, content)
    return path
  }

  /** A profile of the user's, found by name. */
  profile(name: string, body: string): ProfileDocument {
    this.write(`ambit/config/profiles/${name}.yaml`, header(name) + body)
    return loadProfile(name, this.paths)
  }

  compile(document: ProfileDocument, change: Partial<Variables> = {}): Plan {
    const { project, workspace, home, paths } = this
    return compilePlan(document, { project, workspace, home, searchPath: [], ...change }, paths)
  }

  /** The plan of a profile with this `spec`, indented by two. */
  plan(spec: string, change: Partial<Variables> = {}): Plan {
    return this.compile(this.profile('probe', `spec:\n${spec}`), change)
  }

  [Symbol.dispose](): void {
    rmSync(this.dir, { recursive: true, force: true })
  }
}

export const header = (name: string): string =>
  `apiVersion: ambit/v1\nkind: Profile\nmetadata: { name: ${name} }\n`

/** Asserts an AmbitError of `code` whose message matches. */
export function refuses(code: ErrorCode, message: RegExp, action: () => unknown): void {
  assert.throws(action, (error) => {
    assert.ok(error instanceof AmbitError, String(error))
    assert.equal(error.code, code, error.message)
    assert.match(error.message, message)
    return true
  })
}
