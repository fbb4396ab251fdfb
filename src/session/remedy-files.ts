/** What would allow a refused file: an exception by its exact path, the root's access, or the disk's allowance. */
import type { Fact } from '../audit/fact.ts'
import { compileGlobs } from '../lib/glob.ts'
import { printable } from '../lib/printable.ts'
import { DEFAULT_HIDE, DEFAULT_PROTECT } from '../profile/defaults.ts'
import type { Plan, RootPlan } from '../profile/plan.ts'
import { escapeGlob } from '../profile/roots.ts'
import { within } from '../profile/territory.ts'
import { type Advice, none } from './advice.ts'
import { quoted } from './remedy-yaml.ts'
import { doubled } from './remedy-sizes.ts'

type Denied = Extract<Fact, { k: 'file.denied' }>

/** @returns the advice, and the root or the pattern that refused */
export function adviseFile(fact: Denied, plan: Plan): { advice: Advice; rule: string | null } {
  // By its path, longest first as in the plan: not what a fact of another version calls it.
  const root = plan.roots.find(({ path }) => within(fact.path, path))
  if (!root) return { advice: none('No root of the profile holds it.'), rule: null }
  const path = fact.path.slice(root.path.length).replace(/^\//, '')
  switch (fact.reason) {
    case 'hidden':
      return { advice: adviseHidden(path, root), rule: ruleOf(root, 'hide', path) }
    case 'protected':
      return { advice: adviseProtected(path, root, plan), rule: ruleOf(root, 'protect', path) }
    default:
      return { advice: adviseAccess(fact, root, plan), rule: root.id }
  }
}

/** The pattern that decided, as `files[0] hide .env (default list)`. The pattern is the profile's, not the agent's. */
function ruleOf(root: RootPlan, list: 'hide' | 'protect', path: string): string {
  const glob = root[list].findLast((glob) => !glob.startsWith('!') && compileGlobs([glob])(path))
  if (glob === undefined) return `${root.id} ${list}`
  const defaults = list === 'hide' ? DEFAULT_HIDE : DEFAULT_PROTECT
  return `${root.id} ${list} ${glob}${defaults.includes(glob) ? ' (default list)' : ''}`
}

function adviseHidden(path: string, root: RootPlan): Advice {
  const lines = exceptions(path, root.hide)
  if (lines === null)
    return none('Its path cannot be written down as an exception to the letter: rename or move it first.')
  return {
    changes: lines.map((yaml) => ({ place: `${root.id}.hide`, yaml })),
    risk: 'high',
    advice:
      lines.length > 1 || !root.hide.length
        ? 'Shows the directory and all in it that no other pattern hides; names like this one hold secrets.'
        : 'Shows it, with all in it where it is a directory; names like this one hold secrets.',
  }
}

/** Nobody wants as many exceptions as a deeper path could need; and each is tried against all patterns. */
const MOST_NAMES = 64

/** Exceptions for `path` and each of its directories that is hidden by itself; null when they cannot be written. */
function exceptions(path: string, globs: readonly string[]): string[] | null {
  const added: string[] = []
  const names = path.split('/')
  if (names.length > MOST_NAMES) return null
  try {
    for (const depth of names.keys()) {
      const part = names.slice(0, depth + 1).join('/')
      if (compileGlobs([...globs, ...added])(part)) added.push(`!${escapeGlob(part)}`)
    }
    if (added.length === 0 || compileGlobs([...globs, ...added])(path)) return null
  } catch {
    // A name that the glob language refuses.
    return null
  }
  const lines = added.map(quoted)
  return lines.some((line) => line === null) ? null : lines.map((line) => `- ${line}`)
}

/**
 * What Ambit itself protects runs on the host later, or decides what runs: that is where a turned agent wants to
 * write, so no exception is suggested. What the profile's author protected, they may open again.
 */
function adviseProtected(path: string, root: RootPlan, plan: Plan): Advice {
  const glob = root.protect.findLast((glob) => !glob.startsWith('!') && compileGlobs([glob])(path))
  if (glob === undefined || glob.startsWith('/') || DEFAULT_PROTECT.includes(glob))
    return none(
      `It runs on your machine later, or decides what runs there: change it yourself${workspaceIn(plan)}.`,
    )
  const lines = exceptions(path, root.protect)
  if (lines === null) return none('Its name cannot be written down as an exception to the letter.')
  return {
    changes: lines.map((yaml) => ({ place: `${root.id}.protect`, yaml })),
    risk: 'high',
    advice: 'Lets the session change what the profile protects.',
  }
}

/** Where such files are free; a path of the person's own, shown by whoever prints the advice. */
function workspaceIn(plan: Plan): string {
  const place = plan.roots.find(({ variable, access }) => variable === 'workspace' && access === 'write')
  return `, or work in \${workspace}${place ? ` (${printable(place.path, 200)})` : ''}`
}

function adviseAccess(fact: Denied, root: RootPlan, plan: Plan): Advice {
  switch (fact.reason) {
    case 'read-only': {
      const changes = [{ place: root.id, yaml: 'access: review' }]
      if (root.via === 'mount') changes.push({ place: root.id, yaml: 'via: view' })
      return {
        changes,
        risk: 'low',
        advice: 'Changes wait for `ambit review`; `write` would apply them at once.',
      }
    }
    case 'quota': {
      const yaml = doubled('disk', plan.isolation.disk)
      if (yaml === null) return none('The allowance for the disk is as large as it can be.')
      return {
        changes: [{ place: 'isolation', yaml }],
        risk: 'low',
        advice: 'What the session may add to the disk is used up; this doubles it.',
      }
    }
    case 'hard-link':
      return none('A file with names that Ambit cannot see is refused: copy it, so that it has one name.')
    case 'outside':
      return none('It lies outside every root of the profile: name its directory under files, or copy it in.')
    default:
      return none('The file view has no such operation, whatever the profile says.')
  }
}
