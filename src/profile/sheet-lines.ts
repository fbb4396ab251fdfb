/** The lines of the grant sheet, one function a section. Texts are escaped by sheet.ts. */
import { formatDuration, formatSize } from '../lib/units.ts'
import type { NetworkRule, Plan, RootPlan } from './plan.ts'
import { compileGlobs } from '../lib/glob.ts'
import { DEFAULT_HIDE, DEFAULT_PROTECT, DEFAULT_REVIEW } from './defaults.ts'
import { modelHostWithin } from './network.ts'
import type { SheetContext, SheetLine, Weight } from './sheet.ts'
import { hidesAll } from './left-out.ts'
import { within } from './territory.ts'

const line = (weight: Weight, section: string, rule: string | null, text: string): SheetLine => ({
  weight,
  section,
  rule,
  text,
})

/** Which program runs, whether it is measured, and where the profile comes from. */
export function agentLines(plan: Plan, context: SheetContext): SheetLine[] {
  const { agent, argv } = context
  const version = agent.version === null ? '' : ` ${agent.version}`
  const words = argv.join(' ')
  const more = words === agent.name ? '' : `: ${words}`
  const lines = [line('fact', 'agent', null, `runs ${agent.name}${version}${more}`)]
  if (agent.digest === null)
    lines.push(
      line(
        'note',
        'agent',
        null,
        `${agent.executable} is not measured: it may change between sessions unseen`,
      ),
    )
  for (const note of agent.notes ?? []) lines.push(line('fact', 'agent', null, note))
  if (plan.profile.origin === 'file') {
    const root = plan.roots.find((candidate) => within(plan.profile.file, candidate.path))
    const where = root && root.access !== 'read' ? ', in a directory where the agent works' : ''
    lines.push(
      line(
        root ? 'risk' : 'note',
        'profile',
        null,
        `the bounds come from a file that somebody named: ${plan.profile.file}${where}`,
      ),
    )
  }
  return lines
}

const DOES: Readonly<Record<RootPlan['access'], string>> = {
  read: 'reads',
  review: 'reads, and changes after your review,',
  write: 'reads and changes at once',
}

/** Each root with its exceptions, in the order of the profile. */
export function fileLines(plan: Plan): SheetLine[] {
  if (plan.roots.length === 0) return [line('fact', 'files', null, 'sees none of your files')]
  return inProfileOrder(plan.roots).flatMap((root) =>
    hidesAll(root.hide)
      ? [line('fact', 'files', root.id, `sees nothing in ${root.path}`)]
      : [rootLine(root), ...widenedLines(root, plan), ...exceptionLines(root), ...nameLines(root)],
  )
}

/** `files[2]` before `files[10]`; the plan has the longest path first. */
const inProfileOrder = (roots: readonly RootPlan[]): RootPlan[] =>
  roots.toSorted((a, b) => Number(/\d+/.exec(a.id)?.[0]) - Number(/\d+/.exec(b.id)?.[0]))

/** Hidden files that git's history still holds. */
export function trackedLines(tracked: readonly string[]): SheetLine[] {
  if (tracked.length === 0) return []
  const more = tracked.length > 5 ? ` and ${tracked.length - 5} more` : ''
  const names = tracked.slice(0, 5).join(', ')
  return [
    line(
      'note',
      'files',
      null,
      `hidden, but git has them, and their content is in its history: ${names}${more}`,
    ),
  ]
}

function rootLine(root: RootPlan): SheetLine {
  const made = root.create ? ' (Ambit makes it)' : ''
  const free =
    root.variable === 'workspace'
      ? '; hooks, editor and agent settings there too: treat what lies there as untrusted'
      : ''
  const weight = root.access === 'write' && root.variable !== 'workspace' ? 'risk' : 'fact'
  return line(weight, 'files', root.id, `${DOES[root.access]} ${root.path}${made} [${root.label}]${free}`)
}

const DEFAULTS = new Set([...DEFAULT_HIDE, ...DEFAULT_PROTECT, ...DEFAULT_REVIEW])

const ACCESS: readonly RootPlan['access'][] = ['read', 'review', 'write']

/** A root within another one that allows more than it does. */
function widenedLines(root: RootPlan, plan: Plan): SheetLine[] {
  const parent = plan.roots.find((other) => other !== root && within(root.path, other.path))
  if (!parent) return []
  const wider = ACCESS.indexOf(root.access) > ACCESS.indexOf(parent.access)
  const unhides = parent.hide.some((glob) => !glob.startsWith('!') && !root.hide.includes(glob))
  if (!wider && !unhides) return []
  const what = [
    wider ? `${root.access} instead of ${parent.access}` : '',
    unhides ? 'names shown that are hidden around it' : '',
  ]
  return [
    line('risk', 'files', root.id, `${root.path} widens ${parent.path}: ${what.filter(Boolean).join('; ')}`),
  ]
}

/** `via: mount`, and what a profile re-admits of the names that Ambit hides or protects by default. */
function exceptionLines(root: RootPlan): SheetLine[] {
  const lines: SheetLine[] = []
  if (root.via === 'mount') {
    lines.push(
      line(
        'note',
        'files',
        root.id,
        `${root.path} is mounted as it is: opens are recorded late or not at all, and names that appear later are not hidden`,
      ),
    )
  }
  for (const [list, verb] of [
    [root.hide, 'shows'],
    [root.protect, 'lets the agent change'],
    [root.review, 'applies without review'],
  ] as const) {
    const back = readmitted(list)
    if (back.length > 0)
      lines.push(
        line('risk', 'files', root.id, `${verb} ${back.join(', ')} in ${root.path}, which Ambit would not`),
      )
  }
  return lines
}

/** Re-admissions that the profile wrote; the defaults' own are no news. */
const readmitted = (globs: readonly string[]): string[] =>
  [...new Set(globs.filter((glob) => glob.startsWith('!') && !DEFAULTS.has(glob)))].map((glob) =>
    glob.slice(1),
  )

function nameLines(root: RootPlan): SheetLine[] {
  if (root.hide.length === 0)
    return [
      line(
        'note',
        'files',
        root.id,
        `hides no names in ${root.path}: a secret that you put there can be read`,
      ),
    ]
  const own = root.hide.filter((glob) => !DEFAULTS.has(glob) && !glob.startsWith('!'))
  const more = own.length > 0 ? `, and ${own.join(', ')}` : ''
  const kept = root.access === 'read' ? '' : '; shell, git, editor and agent settings there cannot be changed'
  return [
    line(
      'fact',
      'files',
      root.id,
      `in ${root.path}: names of keys, tokens and environment files do not exist${more}${kept}`,
    ),
  ]
}

/** Each host that can be reached, and how much may be sent. */
export function networkLines(plan: Plan): SheetLine[] {
  if (plan.network.length === 0) return [line('fact', 'network', null, 'reaches no host')]
  const { perRequest, perMinute, perSession } = plan.upload
  return [
    ...plan.network.flatMap((rule) => ruleLines(rule, plan)),
    line(
      'fact',
      'upload',
      null,
      `sends at most ${formatSize(perRequest)} a request, ${formatSize(perMinute)} a minute, ${formatSize(perSession)} in all`,
    ),
  ]
}

function ruleLines(rule: NetworkRule, plan: Plan): SheetLine[] {
  const risks = ruleRisks(rule, plan)
  const means = rule.raw ? 'anything' : `${methods(rule)} ${paths(rule)}`
  const careful = risks.length > 0 ? ` (${risks.join('; ')})` : ''
  // The lists last: they are as long as whoever wrote the profile likes.
  const bounds = `data up to ${rule.clearance}${credentialOf(rule, plan)}`
  const what = `reaches ${rule.host}${dialled(rule)}${careful}, ${bounds}${ports(rule)}: ${means}`
  return [line(risks.length > 0 ? 'risk' : 'fact', 'network', rule.id, what)]
}

const dialled = ({ connect }: NetworkRule): string =>
  connect ? `, dialled at ${connect.address} port ${connect.port}` : ''

function ports(rule: NetworkRule): string {
  if (rule.ports.length === 0) return ', at no port'
  return rule.ports.length === 1 && rule.ports[0] === 443 ? '' : `, at port ${rule.ports.join(', ')}`
}

const methods = (rule: NetworkRule): string =>
  rule.methods === null ? 'every method' : rule.methods.length === 0 ? 'no method' : rule.methods.join(', ')

const paths = (rule: NetworkRule): string =>
  rule.paths === null
    ? 'at every path'
    : rule.paths.length === 0
      ? 'at no path'
      : `at ${rule.paths.join(', ')}`

function credentialOf(rule: NetworkRule, plan: Plan): string {
  const credential = plan.credentials.find((candidate) => candidate.name === rule.credential)
  return credential
    ? `, with your ${credential.name} credential (${credential.header}, from ${credential.source})`
    : ''
}

const CHANGING = new Set(['POST', 'PUT', 'PATCH', 'DELETE'])

function ruleRisks(rule: NetworkRule, plan: Plan): string[] {
  const wild = rule.host.startsWith('*.')
  const known = modelHostWithin(rule.host) !== null
  const changing = rule.methods?.filter((method) => CHANGING.has(method)) ?? []
  return [
    wild ? 'any host of that domain' : '',
    rule.methods === null && !rule.raw ? 'methods are not limited' : '',
    rule.paths === null && !rule.raw ? 'paths are not limited' : '',
    rule.raw ? 'over bare TCP: nobody checks who answers' : '',
    changing.length > 0 && !known && !wild && rule.methods !== null
      ? `it can change things there: ${changing.join(', ')}`
      : '',
    rule.inspect ? '' : 'not inspected: Ambit sees the host and the amount, nothing else',
    rule.plain ? 'in clear over plain HTTP' : '',
    rule.ca !== null ? 'trusts roots that the profile brings' : '',
    wild && rule.credential !== null && plan.credentials.length > 0
      ? 'every such host gets your credential'
      : '',
    rule.connect ? 'its address is pinned, also to this machine or a private network' : '',
  ].filter(Boolean)
}

/** Variables that pass, and which credentials the agent holds placeholders of. */
export function environmentLines(plan: Plan): SheetLine[] {
  const { pass, set } = plan.environment
  const lines: SheetLine[] = []
  if (pass.length > 0) lines.push(line('fact', 'environment', null, `gets your ${pass.join(', ')}`))
  const names = Object.keys(set).toSorted()
  if (names.length > 0)
    lines.push(
      line('fact', 'environment', null, `has ${names.map((name) => `${name}=${set[name]}`).join(', ')}`),
    )
  for (const credential of plan.credentials) {
    const held = credential.env === null ? 'holds nothing of it' : `holds a placeholder in ${credential.env}`
    lines.push(
      line('fact', 'credentials', null, `credential ${credential.name} stays outside; the agent ${held}`),
    )
  }
  return lines
}

/** Clipboard, screen and sound: a risk where the profile asks for one, although no runtime gives it. */
export function desktopLines(plan: Plan): SheetLine[] {
  const names = {
    clipboard: 'clipboard',
    display: 'screen',
    audio: 'sound',
  } as const
  const allowed = (Object.keys(names) as (keyof typeof names)[]).filter(
    (part) => plan.desktop[part] === 'allow',
  )
  if (allowed.length === 0) return [line('fact', 'desktop', null, 'no clipboard, screen or sound')]
  return allowed.map((part) =>
    line('risk', 'desktop', null, `asks for your ${names[part]}, which no runtime gives yet`),
  )
}

/** Reason codes of the shipped policy; another module's speak for themselves. */
const RAISED_BY: Readonly<Record<string, string>> = {
  'user.high-risk': 'policy counts you among the users at high risk',
  'agent.unknown': "this agent's digest is on no list of policy's",
  '--runtime': 'the command line asks for it',
}

/** Which runtime, what that means, and which rule made it more than the profile asks for. */
export function runtimeLines(plan: Plan, { runtime, raised = [] }: SheetContext): SheetLine[] {
  const { wallclock, runtime: asked } = plan.isolation
  const words = (reason: string): string => {
    const said = RAISED_BY[reason] ?? /^label\.(.+)$/.exec(reason)?.[1]?.concat(' data, or more, may be read')
    return said === undefined ? reason : `${said} (${reason})`
  }
  return [
    line(
      'fact',
      'isolation',
      null,
      `in ${runtime.name} (${runtime.words}), for at most ${formatDuration(wallclock)}`,
    ),
    ...raised.map((reason) =>
      line(
        'fact',
        'isolation',
        null,
        `in ${runtime.name} where the profile asks for ${asked}: ${words(reason)}`,
      ),
    ),
  ]
}

/** Limits, and whether they are enforced in full. */
export function limitLines(plan: Plan): SheetLine[] {
  const { cpus, memory, processes, disk, limits } = plan.isolation
  const lines = [
    line(
      'fact',
      'isolation',
      null,
      `uses at most ${cpus} CPUs, ${formatSize(memory)} memory, ${processes} processes, ${formatSize(disk)} more disk`,
    ),
  ]
  if (limits === 'partly')
    lines.push(
      line(
        'note',
        'isolation',
        null,
        'these limits may be watched instead of enforced, where the system offers no more',
      ),
    )
  for (const approval of plan.approvals)
    lines.push(line('note', 'approvals', null, `a person must approve: ${approval}`))
  return [...lines, ...plan.mirror.map(({ from }) => mirrorLine(from))]
}

const hiddenByDefault = compileGlobs(DEFAULT_HIDE)

const mirrorLine = (from: string): SheetLine =>
  hiddenByDefault(from)
    ? line('risk', 'mirror', null, `gets a copy of ${from}, a name that Ambit hides`)
    : line('fact', 'mirror', null, `gets a copy of ${from}`)
