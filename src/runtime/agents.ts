import type { Agent } from './closure.ts'

/** What Ambit knows about one agent program, so that it runs unchanged inside. */
export interface Adapter {
  readonly title: string
  /** Environment inside. */
  readonly env: Readonly<Record<string, string>>
  /** Read-only files inside, under /etc. The agent's own home is never written to: it is the agent's. */
  readonly files: Readonly<Record<string, string>>
  /** Written once, when the home is made; path relative to the home. */
  readonly seeds: Readonly<Record<string, string>>
  /** For the grant sheet: what was switched, in plain words. */
  readonly notes: readonly string[]
}

const QUIET = 'its updater and telemetry are switched off'

/** By npm package, and by the names of binaries that are installed without one. */
const ADAPTERS: readonly (Adapter & { readonly known: readonly string[] })[] = [
  {
    known: ['@anthropic-ai/claude-code', 'claude'],
    title: 'Claude Code',
    // code.claude.com/docs/en/settings: managed settings win over the user's and the project's.
    env: {
      DISABLE_AUTOUPDATER: '1',
      DISABLE_UPDATES: '1',
      CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: '1',
      DISABLE_INSTALLATION_CHECKS: '1',
    },
    files: { '/etc/claude-code/managed-settings.json': json({ sandbox: { enabled: false } }) },
    seeds: { '.claude.json': json({ hasCompletedOnboarding: true, autoUpdates: false }) },
    notes: ["Claude Code's own sandbox is switched off: Ambit's holds instead", `Claude Code: ${QUIET}`],
  },
  {
    known: ['@openai/codex', 'codex'],
    title: 'Codex',
    env: {},
    // Highest layer of Codex's configuration; `-s` on the command line and ~/.codex/config.toml come below it.
    files: {
      '/etc/codex/managed_config.toml': [
        'sandbox_mode = "danger-full-access"',
        'check_for_update_on_startup = false',
        '[analytics]',
        'enabled = false',
        '[feedback]',
        'enabled = false',
        '',
      ].join('\n'),
    },
    seeds: {},
    notes: ["Codex's own sandbox is switched off: Ambit's holds instead", `Codex: ${QUIET}`],
  },
  {
    known: ['@mariozechner/pi-coding-agent', '@earendil-works/pi-coding-agent', 'pi'],
    title: 'pi',
    env: { PI_OFFLINE: '1', PI_SKIP_VERSION_CHECK: '1', PI_TELEMETRY: '0' },
    files: {},
    seeds: {},
    notes: [`pi: ${QUIET}; it downloads no tools`],
  },
  {
    known: ['opencode-ai', 'opencode'],
    title: 'opencode',
    env: {
      OPENCODE_DISABLE_AUTOUPDATE: 'true',
      OPENCODE_DISABLE_SHARE: 'true',
      OPENCODE_DISABLE_MODELS_FETCH: 'true',
      OPENCODE_DISABLE_LSP_DOWNLOAD: 'true',
    },
    files: {},
    seeds: {},
    notes: ['opencode: its updater, session sharing and downloads are switched off'],
  },
  {
    known: ['@google/gemini-cli', 'gemini'],
    title: 'Gemini CLI',
    env: { GEMINI_SANDBOX: 'false', GEMINI_TELEMETRY_ENABLED: 'false' },
    // Not /etc/gemini-cli/settings.json: Gemini ignores it unless root owns it, and root has no name inside.
    files: {},
    seeds: {
      '.gemini/settings.json': json({
        general: { enableAutoUpdate: false, enableAutoUpdateNotification: false },
        privacy: { usageStatisticsEnabled: false },
      }),
    },
    notes: ["Gemini CLI's own sandbox is switched off: Ambit's holds instead", `Gemini CLI: ${QUIET}`],
  },
]

const NONE: Adapter = { title: '', env: {}, files: {}, seeds: {}, notes: [] }

/** The adapter of a known agent; an unknown program gets one that changes nothing. */
export function adapterFor(agent: Pick<Agent, 'name'>): Adapter {
  return ADAPTERS.find(({ known }) => known.includes(agent.name)) ?? NONE
}

function json(value: unknown): string {
  return `${JSON.stringify(value, null, 2)}\n`
}
