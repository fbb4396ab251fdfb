/**
 * Limits and bypasses of other sandboxes for agents, as they or others published them: each with the cases that try the
 * same here, or with why none can. A test run prints them behind the table of cases.
 */
export interface Published {
  readonly product: string
  readonly what: string
  /** Ids of the catalogue that try it, or why there is nothing to try. */
  readonly here: readonly [string, ...string[]] | string
}

const of = (product: string, ...all: readonly (readonly [string, Published['here']])[]): Published[] =>
  all.map(([what, here]) => ({ product, what, here }))

export const PUBLISHED: readonly Published[] = [
  ...of(
    'sandbox-runtime, Claude Code',
    ['CVE-2025-66479: an empty list of hosts lets all through', ['V-02', 'N-01']],
    ['NUL in the name that SOCKS5 is given', ['V-03', 'N-06']],
    ['CVE-2026-39861: a program outside writes through a link made inside', ['V-05', 'F-04']],
    ['CVE-2026-25725: a missing settings file can be made', ['V-04', 'F-10', 'P-05']],
    ['CVE-2026-25724: a link evades a denied path', ['V-06', 'F-03']],
    ['srt#88, #3: data in DNS names', ['N-03', 'N-04', 'V-29']],
    [
      'the resolver of Windows and macOS is not fenced',
      'Ambit runs on Linux only, where no query leaves (N-03)',
    ],
    ['#87381: a CONNECT within a CONNECT', ['V-09', 'N-24']],
    ['#432: patterns of macOS count from the working directory', ['F-12', 'F-13']],
    ['#221: a link at .git/hooks breaks the start', ['F-09']],
    ['domain fronting', ['N-20']],
    ['denied patterns miss files that are made later', ['F-11']],
    ['reads are open by default', ['F-03', 'F-23']],
    ['inherited and passed unix sockets', ['C-36', 'C-45']],
    ['protected names are searched for three levels deep', ['F-13']],
    [
      'enableWeakerNestedSandbox',
      'no such switch: what a profile asks for and the host cannot enforce starts nothing (V-10)',
    ],
    ['files sent to an allowed API under another key', ['V-01', 'X-01']],
  ),
  ...of(
    'Codex, Cursor',
    ['CVE-2025-59532: the working directory that the model names becomes writable', ['V-29', 'F-01', 'C-37']],
    ['limits of methods do not hold inside a CONNECT', ['N-23', 'N-34']],
    ['an interface for its administrator without a password', ['T-11', 'V-19', 'N-38']],
    ['DNS rebinding', ['N-18', 'N-19']],
    ['#7657: reads were not restricted', ['F-03', 'F-23']],
    ['configuration that the agent writes leads out', ['V-12', 'P-06', 'P-12']],
    ['CVE-2026-22708: built-ins of the shell skip the list of commands', ['V-14']],
  ),
  ...of(
    'nono',
    ['GHSA-27vp-2mmc-vmh3: out by D-Bus', ['C-44', 'C-19']],
    ['PR#1631: Landlock sees the port only, any host on it is reached', ['N-02', 'N-12']],
    ['#781: a denied unix socket can be connected to', ['C-42', 'C-43', 'V-21']],
    ['#207: signals and abstract sockets reach out', ['C-40', 'C-41']],
    ['GHSA-72w7-mf9g-733p: without a newer kernel the proxy is not enforced', ['N-02', 'C-23']],
  ),
  ...of(
    'agentsh',
    ['C1: a second command behind & escapes the shim', ['C-27', 'V-14']],
    ['C2: x32 calls pass the filter', ['C-20']],
    ['C3: its command for WSL2 and Lima is put together as shell text', ['C-47']],
    [
      'C4: a check of packages that fails lets them through',
      'packages are not judged: their scripts run inside, and what they change waits for review (P-08)',
    ],
    ['H1: a kept secret skips approval and is shared by agents', ['K-05', 'K-09']],
    ['H2, H5: faults let pass', ['Q-01', 'Q-08', 'Q-10']],
    ['H4: a link leads out of its file system', ['F-02', 'F-04', 'F-15']],
    ['no policy where input is no terminal', ['N-37', 'V-10']],
  ),
  ...of(
    'OpenShell',
    ['#1169: DNS queries leave through the mapper', ['V-22', 'N-04']],
    ['Landlock where there is some', ['C-48', 'N-37']],
    [
      'answers of MCP are not inspected',
      'contents of answers are not judged here either: they are untrusted, and label and destinations count (X-16)',
    ],
    ['#6630: LD_PRELOAD into an allowed program makes it another', ['C-27', 'V-14']],
    ['a local override of the policy drops where a credential came from for good', ['K-04', 'N-36']],
    ['bodies are rewritten up to 256 KiB only', ['X-13', 'N-39']],
  ),
  ...of(
    'agent-vault, pipelock, AGT',
    ['the way to the proxy is in the clear, with a token', ['N-38', 'N-33', 'K-01']],
    ['tokens of agents do not end', ['K-05', 'K-09']],
    ['hosts that no rule names are passed on', ['N-01']],
    ['the agent itself is not confined', ['N-02', 'C-12']],
    ['a machine’s identity is in the agent’s environment', ['K-10', 'K-01']],
    ['defaults warn and let pass', ['N-01', 'Q-10']],
    ['CONNECT is blind without TLS interception', ['N-22', 'N-23']],
    ['secrets are found by patterns only', ['X-09', 'X-11']],
    ['receipts are off by default', ['A-07', 'A-18']],
    [
      'no detection of injected text, nor of sequences of allowed steps',
      'nothing is detected in text: an agent that obeys it is bounded (X-16), and private data, untrusted content and a new destination together are asked about',
    ],
    ['attempts are recorded, not what became of them', ['A-01', 'A-18']],
    ['without a policy all is allowed', ['N-01', 'N-37', 'Q-10']],
    ['tools that are not wrapped are not governed', ['N-02', 'V-14']],
  ),
  ...of(
    'gondolin, microsandbox',
    ['QUIC and UDP', ['N-02', 'C-23']],
    ['DNS that is passed on tunnels', ['N-03', 'V-29']],
    ['a kept connection is not judged again', ['N-35', 'X-14']],
    ['the guest exhausts its host', ['R-01', 'R-02', 'C-50']],
    ['#645: the switch that takes the network away was ignored', ['N-01', 'C-52']],
    [
      '#1422: a secret that is added later is not looked for',
      'a session’s credentials are settled when it starts',
    ],
    ['#969: a certificate that is not valid yet', ['A-14']],
    ['images are not verified', ['C-51']],
    ['a real secret in the guest’s environment', ['K-01', 'K-08']],
  ),
  ...of(
    'Docker, fence, leash, coding-agents-kit',
    ['one policy for all', ['N-38', 'K-05']],
    [
      'only images of its own name space are verified',
      'no images of others are run: the one there is has a signed manifest, and is opened by the digest in it (C-51)',
    ],
    ['secrets in the clear in files that a crash leaves', ['K-08', 'A-17']],
    ['no boundary for hostile code, by its own word', ['C-53']],
    ['values of headers become text of a policy', ['K-11', 'X-14']],
    ['no IPv6, no ranges of addresses', ['N-15', 'N-16']],
    ['only the calls that tools declare are judged', ['N-02', 'V-14']],
  ),
  ...of(
    'any of them',
    ['two parsers read one name differently', ['N-06', 'N-07', 'N-08', 'N-13']],
    ['a link between the sandbox and a trusted writer', ['F-15', 'V-05']],
    ['io_uring', ['C-18']],
    ['environments by /proc', ['C-28', 'C-29', 'K-08']],
    ['a placeholder sent to another host', ['K-02', 'K-07']],
    [
      'an approval used again for something else',
      'a yes is to one grant and its content, by digest (P-12); nobody approves single requests',
    ],
    ['a policy that is empty or malformed', ['N-01', 'N-11', 'Q-10']],
  ),
]
