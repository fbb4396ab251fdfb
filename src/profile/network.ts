/** The `network` section: document → rules of the plan. Hosts come out canonical, as the gate compares them. */
import { isIP } from 'node:net'
import { matchesHost, parseHost, parseHostPattern } from '../lib/host.ts'
import { isPathGlob } from '../lib/url-path.ts'
import { DEFAULT_CLEARANCE, DEFAULT_PORTS, type FullSpec } from './defaults.ts'
import type { NetworkRule } from './plan.ts'
import type { RuleEntry } from './schema.ts'
import type { Path } from './yaml.ts'
import { invalid } from './invalid.ts'

type Place = (path: Path) => string

/**
 * Each entry becomes one rule, or two with the same id where it names both TLS and plain ports: `plain` holds for all
 * ports of a rule, and so does `raw`, whose port stands alone.
 *
 * @throws AmbitError ERR_PROFILE_INVALID
 */
export function compileNetwork(spec: FullSpec, place: Place): NetworkRule[] {
  const credentials = new Set(spec.credentials.map((credential) => credential.name))
  const rules = spec.network.flatMap((entry, index) => {
    const at = (key: keyof RuleEntry, ...rest: number[]): string =>
      place(['spec', 'network', index, key, ...rest])
    checkTogether(entry, at)
    if (entry.credential !== undefined && !credentials.has(entry.credential)) {
      throw invalid(at('credential'), `there is no credential "${entry.credential}"`)
    }
    return splitByPlain(compileRule(entry, index, at), entry)
  })
  refuseOverlaps(rules, place)
  return rules
}

function compileRule(
  entry: RuleEntry,
  index: number,
  at: (key: keyof RuleEntry, ...rest: number[]) => string,
): NetworkRule {
  const host = parseHostPattern(entry.host)
  if (host === null) throw invalid(at('host'), 'is no host name, *.name of two labels or more, or address')
  for (const [i, method] of (entry.methods ?? []).entries()) {
    if (method === 'CONNECT' || method === 'TRACE')
      throw invalid(at('methods', i), `${method} is never allowed`)
  }
  for (const [i, glob] of (entry.paths ?? []).entries()) {
    if (!isPathGlob(glob) || /\/\.{1,2}(?:\/|$)|\/\/|\\/.test(glob)) {
      throw invalid(
        at('paths', i),
        'is no path: begin with /, no query, no . or .. segments, ** at the end only',
      )
    }
  }
  const connect = entry.connect === undefined ? null : parseConnect(entry.connect, at('connect'))
  return {
    id: `network[${index}]`,
    host,
    ports: [],
    methods: entry.methods ?? null,
    paths: entry.paths ?? null,
    clearance: entry.clearance ?? DEFAULT_CLEARANCE,
    credential: entry.credential ?? null,
    inspect: entry.inspect ?? true,
    plain: false,
    raw: false,
    connect,
    ca: entry.ca ?? null,
  }
}

function splitByPlain(rule: NetworkRule, entry: RuleEntry): NetworkRule[] {
  const tls: number[] = []
  const plain: number[] = []
  const raw = entry.ports?.find(isRaw)
  if (raw !== undefined) return [{ ...rule, ports: [numberOf(raw)], inspect: false, raw: true }]
  for (const port of entry.ports ?? DEFAULT_PORTS) {
    if (typeof port === 'number') tls.push(port)
    else plain.push(numberOf(port))
  }
  const both = [
    { ...rule, ports: unique(tls) },
    { ...rule, ports: unique(plain), plain: true },
  ]
  // A rule without any port stays in the plan: it allows nothing, and the sheet says so.
  const used = both.filter((half) => half.ports.length > 0)
  return used.length > 0 ? used : both.slice(0, 1)
}

const isRaw = (port: string | number): port is string => String(port).endsWith('/tcp')
const numberOf = (port: string): number => Number(port.slice(0, port.indexOf('/')))
const unique = (ports: readonly number[]): number[] => [...new Set(ports)].toSorted((a, b) => a - b)

/** What an uninspected connection cannot be held to must not be promised. */
function checkTogether(entry: RuleEntry, at: (key: keyof RuleEntry) => string): void {
  const plainPort = entry.ports?.find((port) => typeof port === 'string')
  if (plainPort !== undefined && Number.parseInt(String(plainPort), 10) > 65535)
    throw invalid(at('ports'), 'has a port above 65535')
  if (entry.ports?.some(isRaw)) return checkRaw(entry, at)
  if (entry.inspect === false) {
    for (const key of ['methods', 'paths', 'credential'] as const) {
      if (entry[key] !== undefined)
        throw invalid(at(key), 'needs inspect: true; an uninspected connection cannot be held to it')
    }
    if (plainPort !== undefined) throw invalid(at('inspect'), 'plain HTTP is always inspected')
    const model = modelHostWithin(parseHostPattern(entry.host))
    if (model !== null)
      throw invalid(at('inspect'), `reaches ${model}, a model endpoint: those must be inspected`)
  }
  if (plainPort !== undefined && entry.credential !== undefined) {
    throw invalid(at('credential'), 'would travel in clear over plain HTTP')
  }
}

/**
 * Nothing is read on such a port, no name and no certificate, so whom it reaches is said by the address alone: one
 * that a person wrote.
 */
function checkRaw(entry: RuleEntry, at: (key: keyof RuleEntry) => string): void {
  if (entry.ports?.length !== 1) throw invalid(at('ports'), 'PORT/tcp stands alone in a rule of its own')
  if (entry.connect === undefined)
    throw invalid(at('ports'), 'PORT/tcp needs connect: "ADDRESS:PORT", for nobody checks whom it reaches')
  for (const key of ['methods', 'paths', 'credential', 'ca'] as const) {
    if (entry[key] !== undefined) throw invalid(at(key), 'is of HTTP and TLS; nothing is read on PORT/tcp')
  }
  if (entry.inspect === true) throw invalid(at('inspect'), 'nothing is read on PORT/tcp')
  const model = modelHostWithin(parseHostPattern(entry.host))
  if (model !== null)
    throw invalid(at('ports'), `reaches ${model}, a model endpoint: those must be inspected`)
}

function parseConnect(text: string, place: string): { address: string; port: number } {
  const match = /^(\[[0-9A-Fa-f:.]+\]|[0-9.]+):([1-9]\d{0,4})$/.exec(text)
  const literal = match?.[1]?.replace(/^\[|\]$/g, '') ?? ''
  const port = Number(match?.[2])
  // isIP refuses the short and octal spellings that parseHost would repair: here a person wrote it.
  const address = isIP(literal) ? parseHost(literal) : null
  if (address === null || port > 65535) throw invalid(place, 'is not ADDRESS:PORT with an IP address')
  return { address, port }
}

/** Same host and port under two rules: which one decides would depend on their order. */
function refuseOverlaps(rules: readonly NetworkRule[], place: Place): void {
  for (const [index, rule] of rules.entries()) {
    for (const earlier of rules.slice(0, index)) {
      const port = rule.ports.find((candidate) => earlier.ports.includes(candidate))
      if (port === undefined || !hostsMeet(rule.host, earlier.host)) continue
      const number = Number(/\d+/.exec(rule.id)?.[0])
      const what =
        rule.id === earlier.id
          ? `names port ${port} twice`
          : `overlaps ${earlier.id} (${earlier.host}) at port ${port}`
      throw invalid(place(['spec', 'network', number, 'host']), what)
    }
  }
}

function hostsMeet(a: string, b: string): boolean {
  if (a === b || matchesHost(a, b) || matchesHost(b, a)) return true
  const [wildA, wildB] = [a, b].map((host) => (host.startsWith('*.') ? host.slice(1) : null))
  return Boolean(wildA && wildB && (wildA.endsWith(wildB) || wildB.endsWith(wildA)))
}

/**
 * Hosts that models answer on: what an agent is told and says passes there, so an uninspected connection would blind
 * DLP, budgets and the record at the one place that always matters.
 */
const MODEL_HOSTS: readonly string[] = [
  'api.anthropic.com',
  'claude.ai',
  'api.openai.com',
  'chatgpt.com',
  'generativelanguage.googleapis.com',
  'cloudcode-pa.googleapis.com',
  'aiplatform.googleapis.com',
  'api.mistral.ai',
  'api.x.ai',
  'api.groq.com',
  'api.deepseek.com',
  'api.cohere.com',
  'api.perplexity.ai',
  'api.together.xyz',
  'api.fireworks.ai',
  'api.cerebras.ai',
  'openrouter.ai',
  'router.huggingface.co',
  'api-inference.huggingface.co',
  'api.githubcopilot.com',
  'models.github.ai',
  'ai-gateway.vercel.sh',
  'dashscope.aliyuncs.com',
  'api.moonshot.ai',
  'api.z.ai',
  'opencode.ai',
]
/** Endpoints with a region or a customer in the name. */
const MODEL_HOST_FORMS =
  /(?:^|\.)(?:bedrock-runtime\.[a-z0-9-]+\.amazonaws\.com|openai\.azure\.com|services\.ai\.azure\.com|[a-z0-9-]+-aiplatform\.googleapis\.com)$/

/** A model host that a canonical pattern reaches, or null. */
export function modelHostWithin(pattern: string | null): string | null {
  if (pattern === null) return null
  const known = MODEL_HOSTS.find((host) => matchesHost(pattern, host))
  if (known) return known
  return MODEL_HOST_FORMS.test(pattern.replace(/^\*\./, '')) ||
    /^\*\.(?:amazonaws|azure|googleapis)\.com$/.test(pattern)
    ? pattern
    : null
}
