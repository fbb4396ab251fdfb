/** A machine of another session beside the one under test: what reaches it, or its gate, shows. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { machineStage } from './machine-stage.ts'
import { eventually } from './processes.ts'
import { describe, type SessionRan } from './stage.ts'
import type { As } from './users.ts'

/** Where its agent listens: machines have the same address each. */
export const PLACE = '192.0.0.2:7777'
/** Nobody may ask for it: its gate's record of that shows that there is one. */
const NAME = 'beside.test'

/** Asks its gate, and itself by TCP and UDP, so that it is known to hear; then says what it hears from others. */
const AGENT = `
use IO::Socket::INET; use IO::Select;
my $tcp = IO::Socket::INET->new(Listen => 9, LocalAddr => '0.0.0.0', LocalPort => 7777) or die "listen: $!";
my $udp = IO::Socket::INET->new(Proto => 'udp', LocalAddr => '0.0.0.0', LocalPort => 7777) or die "udp: $!";
system 'curl -s -m 60 -o /dev/null http://${NAME}/';
my $own = IO::Socket::INET->new(PeerAddr => '${PLACE}') or die "dial: $!";
IO::Socket::INET->new(Proto => 'udp', PeerAddr => '${PLACE}')->send('own');
my $all = IO::Select->new($tcp, $udp);
until (-e 'stop') {
  for my $one ($all->can_read(0.2)) {
    if ($one == $tcp) { my $from = $tcp->accept; print $from "local service"; close $from } else { $udp->recv(my $text, 99) }
    open my $heard, '>>', 'heard'; print $heard $one == $tcp ? "tcp\\n" : "udp\\n"; close $heard;
  }
}`

export interface Beside {
  /** Ends it; resolves with what came to its agent and to its gate beyond its own. */
  end(): Promise<readonly string[]>
}

/** Rejects when it does not hear itself. */
export async function machineBeside(as: As): Promise<Beside> {
  const stage = await machineStage(as)
  const heard = (): string[] => {
    const path = join(stage.project, 'heard')
    return existsSync(path) ? readFileSync(path, 'utf8').trim().split('\n').toSorted() : []
  }
  const running = stage.session(['perl', '-e', AGENT], { timeout: 240_000 })
  const stop = (): Promise<SessionRan> => {
    writeFileSync(join(stage.project, 'stop'), '')
    return running
  }
  const up = eventually(() => heard().join() === 'tcp,udp', 120_000)
  if (!(await Promise.race([up, running.then(() => false)])))
    throw new Error(`it does not hear itself: ${describe(await stop())}`)
  return {
    async end() {
      const others = heard().slice(2)
      const ran = await stop()
      if (ran.code !== 0) throw new Error(describe(ran))
      const asked = (await stage.events()).filter(({ ambit }) => /^(net|dns|http)\./.test(ambit.kind))
      const [own, foreign] = [true, false].map((is) =>
        asked.map((event) => JSON.stringify(event)).filter((text) => text.includes(NAME) === is),
      )
      if (!own?.length) throw new Error('its gate has no record of its own request')
      return [...others, ...(foreign ?? [])]
    },
  }
}
