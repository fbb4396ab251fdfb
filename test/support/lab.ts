/**
 * A network of our own. A test file that imports this first runs, from its first line, in a network namespace with
 * loopback, a default route into the void that counts what enters it, and a resolver that is ours: names resolve to
 * what a test says, any address can be served, and "no packet left" is a number, not a guess.
 *
 * Needs root. Elsewhere `labMissing` says so and the network cases are skipped with that reason.
 */
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const INSIDE = 'AMBIT_TEST_LAB'
/** The void: one end of a cable whose other end listens to nobody; it counts what enters. */
const VOID = 'void0'
const END = 'void1'

export const labMissing: string | null =
  process.getuid?.() === 0 ? null : 'needs root to make a network of its own'

if (!labMissing && process.env[INSIDE] === undefined) enter()
else if (!labMissing) build()

/** Starts this very test file again inside new network and mount namespaces, and ends with its status. */
function enter(): never {
  const argv = [process.execPath, ...process.execArgv, ...process.argv.slice(1)]
  const unshare = ['unshare', '--net', '--mount', '--propagation', 'private']
  // Waiting, this process hears no signal: who ends it must end the other, too.
  const { status } = spawnSync('setpriv', ['--pdeathsig', 'TERM', ...unshare, ...argv], {
    stdio: 'inherit',
    env: { ...process.env, [INSIDE]: '1' },
  })
  process.exit(status ?? 1)
}

function build(): void {
  delete process.env[INSIDE]
  const ip = (command: string): void => void execFileSync('ip', command.split(' '))
  ip('link set lo up')
  ip(`link add ${VOID} type veth peer name ${END}`)
  // Neighbour discovery and ARP would count as traffic.
  for (const end of [VOID, END]) writeFileSync(`/proc/sys/net/ipv6/conf/${end}/disable_ipv6`, '1')
  ip(`address add 192.0.2.2/24 dev ${VOID}`)
  for (const end of [VOID, END]) ip(`link set ${end} arp off up`)
  ip(`route add default dev ${VOID}`)
  const scratch = mkdtempSync(join(tmpdir(), 'ambit-lab-'))
  const resolver = join(scratch, 'resolv.conf')
  writeFileSync(resolver, 'nameserver 127.0.0.1\noptions timeout:1 attempts:1\n', { mode: 0o644 })
  execFileSync('chmod', ['755', scratch])
  execFileSync('mount', ['--bind', resolver, '/etc/resolv.conf'])
  process.once('exit', () => rmSync(scratch, { recursive: true, force: true }))
}

/**
 * Makes an address answer here, public-looking ones too. Routed, not assigned: Ambit refuses a machine's own
 * addresses, and these must look like somebody else's.
 */
export function claimAddress(address: string): void {
  execFileSync('ip', ['route', 'replace', 'local', `${address}/32`, 'dev', 'lo', 'table', 'local'])
}

/** How many packets have left for the void since the lab was built. */
export function packetsOut(): number {
  const json = execFileSync('ip', ['-s', '-j', 'link', 'show', VOID], { encoding: 'utf8' })
  const [link] = JSON.parse(json) as [{ stats64: { tx: { packets: number } } }]
  return link.stats64.tx.packets
}
