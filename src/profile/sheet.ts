/**
 * The grant sheet: what a session may do, in plain words, the risky lines first. A person decides on this text, so it
 * is complete, deterministic, and nothing in it that others wrote reaches the terminal unescaped.
 */
import { printable } from '../lib/printable.ts'
import { digestOf } from './canonical.ts'
import type { Plan, RuntimeName } from './plan.ts'
import { type ConfigurationFile, configurationLines } from './sheet-configuration.ts'
import {
  agentLines,
  desktopLines,
  environmentLines,
  fileLines,
  limitLines,
  networkLines,
  runtimeLines,
  trackedLines,
} from './sheet-lines.ts'

/** `risk`: widens what an attacker gains; `note`: weaker than it might seem; `fact`: the rest. */
export type Weight = 'risk' | 'note' | 'fact'

export interface SheetLine {
  readonly weight: Weight
  /** `files`, `network`, …: the part of the profile that it tells of. */
  readonly section: string
  /** Place in the profile, e.g. `network[0]`; null where there is none. */
  readonly rule: string | null
  /** Printable. */
  readonly text: string
}

export interface SheetContext {
  readonly agent: {
    readonly name: string
    readonly version: string | null
    readonly digest: string | null
    readonly executable: string
    /** What is switched off in it and what of it is visible, in plain words. */
    readonly notes?: readonly string[]
  }
  readonly argv: readonly string[]
  /** The runtime that will be used: at least the profile's. */
  readonly runtime: { readonly name: RuntimeName; readonly words: string }
  /** Why it is more than the profile's: reason codes of policy, `--runtime`. */
  readonly raised?: readonly string[]
  readonly color: boolean
  /** `hiddenButTracked(plan)`; a machine's state, so no part of the digest. */
  readonly tracked?: readonly string[]
  /** Agent and editor configuration in the roots; its digest is part of the sheet's. */
  readonly configuration?: { readonly files: readonly ConfigurationFile[]; readonly digest: string }
}

export interface Sheet {
  readonly lines: readonly SheetLine[]
  readonly text: string
  /**
   * SHA-256, hex, over plan, agent, runtime and the project's agent configuration: a yes to one grant is no yes to another. The command's arguments are
   * no part of it, nor whether the workspace is there yet.
   */
  readonly digest: string
}

const ORDER: readonly Weight[] = ['risk', 'note', 'fact']

/** The grant sheet of a plan: risks first, then notes, then facts; its digest is what is accepted. */
export function renderSheet(plan: Plan, context: SheetContext): Sheet {
  const unsorted = [
    ...agentLines(plan, context),
    ...fileLines(plan),
    ...trackedLines(context.tracked ?? []),
    ...configurationLines(context.configuration?.files ?? []),
    ...networkLines(plan),
    ...environmentLines(plan),
    ...desktopLines(plan),
    ...runtimeLines(plan, context),
    ...limitLines(plan),
  ]
  const lines = unsorted
    .toSorted((a, b) => ORDER.indexOf(a.weight) - ORDER.indexOf(b.weight))
    .flatMap((line) => pieces(line.text).map((text) => ({ ...line, text })))
  return {
    lines,
    text: layOut(plan, context, lines),
    digest: grantDigest(plan, context),
  }
}

const LONGEST_LINE = 2000

/** Printable, and whole: a person decides on what is shown, so a long line goes on in the next. */
function pieces(text: string): string[] {
  const whole = printable(text, Infinity)
  const parts = whole.match(new RegExp(`.{1,${LONGEST_LINE}}`, 'gsu')) ?? [whole]
  return parts.map((part, index) => (index === 0 ? part : `… ${part}`))
}

function grantDigest(plan: Plan, { agent, runtime, configuration }: SheetContext): string {
  const roots = plan.roots.map((root) => ({ ...root, create: false }))
  const { name, version, digest, executable } = agent
  return digestOf({
    plan: { ...plan, roots },
    agent: { name, version, digest, executable },
    runtime: runtime.name,
    configuration: configuration?.digest ?? null,
  })
}

const MARK: Readonly<Record<Weight, string>> = { risk: '!', note: '~', fact: '·' }
const COLOR: Readonly<Record<Weight, string>> = { risk: '\x1b[31m', note: '\x1b[33m', fact: '\x1b[2m' }
const HEADING: Readonly<Record<Weight, string>> = {
  risk: 'Look at these first:',
  note: 'Weaker than it could be:',
  fact: 'Within these bounds:',
}

function layOut(plan: Plan, context: SheetContext, lines: readonly SheetLine[]): string {
  const paint = (code: string, text: string): string => (context.color ? `${code}${text}\x1b[0m` : text)
  const title = `ambit: ${printable(plan.profile.title)} (profile ${printable(plan.profile.name)})`
  const out = [paint('\x1b[1m', title)]
  for (const weight of ORDER) {
    const own = lines.filter((line) => line.weight === weight)
    if (own.length > 0) out.push('', HEADING[weight])
    for (const line of own) out.push(`  ${paint(COLOR[weight], MARK[weight])} ${line.text}`)
  }
  return out.join('\n')
}
