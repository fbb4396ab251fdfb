/**
 * `ambit run --observe`: a draft of the profile that the run would have needed. It is the session's own profile, word
 * for word in force, and below it as comments what else was asked for, riskiest first. Nothing is allowed by it until
 * a person has read a line and moved it.
 */
import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { AmbitError, messageOf } from '../lib/errors.ts'
import { printable } from '../lib/printable.ts'
import { digestOf } from '../profile/canonical.ts'
import { loadProfile } from '../profile/load.ts'
import type { ProfileSource } from '../profile/schema.ts'
import { formatYaml } from '../profile/write-yaml.ts'
import { RISKS } from './advice.ts'
import type { Registered } from './register.ts'
import { remediesOf } from './refusals.ts'
import type { Remedy } from './remedy.ts'
import type { Screen } from './front.ts'

/** Below the 256 KiB of a profile, whatever an agent asks for. */
const MOST_COMMENT = 128 * 1024

/** Writes the draft and says where it is. The session is over by now, so a failure is told and changes nothing. */
export function observeSession(session: Registered, screen: Screen): void {
  try {
    screen.err(
      `ambit: draft profile: ${printable(writeDraft(session))} (nothing in it is in force; read it first)`,
    )
  } catch (error) {
    screen.err(`ambit: no draft profile: ${printable(messageOf(error))}`)
  }
}

function writeDraft({ request, plan, dir, id }: Registered): string {
  const { resolved } = loadProfile(request.profile, request.paths)
  const changed = new AmbitError(
    'ERR_PROFILE_INVALID',
    'profile',
    'it changed while the session ran',
    'run it again',
  )
  if (digestOf(resolved) !== plan.profile.digest) throw changed
  const file = join(dir, 'draft-profile.yaml')
  const text = formatYaml(withRootFiles(resolved, dir)) + renderComments(remediesOf(request.paths, id), id)
  writeFileSync(file, text, { mode: 0o600 })
  // What a person is asked to start from must mean what the session had, to the letter.
  if (digestOf(loadProfile(file, request.paths).resolved) !== plan.profile.digest) {
    rmSync(file)
    throw changed
  }
  return file
}

/** A loaded profile holds the roots themselves where a written one names their file. */
function withRootFiles(source: ProfileSource, dir: string): ProfileSource {
  if (source.spec.network === undefined) return source
  const network = source.spec.network.map((rule, index) => {
    if (rule.ca === undefined) return rule
    const name = `draft-ca-${index}.pem`
    writeFileSync(join(dir, name), rule.ca, { mode: 0o600 })
    return { ...rule, ca: `./${name}` }
  })
  return { ...source, spec: { ...source.spec, network } }
}

/** @internal exported for its tests */
export function renderComments(remedies: readonly Remedy[], id: string): string {
  const open = RISKS.flatMap((risk) => remedies.filter((remedy) => remedy.risk === risk))
  const closed = remedies.filter(({ risk }) => risk === null)
  const lines = [
    `What session ${id} was refused, riskiest first. Whoever misleads an agent also chooses what it asks for:`,
    'move only what you would have allowed unasked. "- …" goes to the end of the list named above it, "key: …" into',
    'the map named above it. Then: ambit profile check FILE, and use it with ambit run --profile FILE.',
    ...(open.length === 0 ? ['', 'Nothing was refused that a change to the profile would allow.'] : []),
  ]
  let size = 0
  for (const [index, remedy] of [...open, ...closed].entries()) {
    const block = blockOf(remedy)
    size += block.join('\n').length
    if (size > MOST_COMMENT) {
      lines.push('', `${remedies.length - index} more: ambit why ${id}`)
      break
    }
    lines.push('', ...block)
  }
  return `\n${lines.map((line) => `# ${line}`.trimEnd()).join('\n')}\n`
}

function blockOf(remedy: Remedy): string[] {
  const times = remedy.count > 1 ? ` ×${remedy.count}` : ''
  return [
    `${remedy.risk ?? 'no change'}: ${remedy.kind} ${remedy.target}: ${remedy.reason}${times}`,
    remedy.advice,
    ...remedy.changes.flatMap(({ place, yaml }) => [`  ${place}:`, `    ${yaml}`]),
  ]
}
