/** What each runtime costs, beside the bare means that it is built on: start, files, network, memory. */
import { debianProgram } from '../cache.ts'
import { type Bench, type Column, type Figure, type Goal, goal, type Table, valuesOf } from '../figure.ts'
import { attempt } from '../peers/attempt.ts'
import { columnOf, type Contender, paired, ratio, spread } from '../stats.ts'
import { MACHINE, memory } from './runtimes-memory.ts'
import { GUEST_FUSE, MICROVM, NATIVE, type Place, placesFor, TREE } from './runtimes-places.ts'
import { BARE, BWRAP, COLD, CONTAINER, ISOLATION, OS_SANDBOX, QEMU, RUNSC } from './runtimes-start.ts'
import { starts, UNPACKED, WARM } from './runtimes-start.ts'
import { CREATE, FILES, NETWORK, SEARCH, STATUS_TITLE, type Workload } from './runtimes-work.ts'

const START_ROUNDS = 5
const WORK_ROUNDS = 5
const PLACES = [NATIVE, BWRAP, RUNSC, GUEST_FUSE, OS_SANDBOX, CONTAINER, MICROVM]

export const runtimes: Figure = {
  name: 'runtimes',
  title: 'Runtimes',
  async run(bench) {
    const rg = await debianProgram('rg', 'ripgrep')
    bench.say(`start, ${START_ROUNDS} rounds`)
    const started = await paired(await starts(bench), START_ROUNDS, 1)
    const start: Table = {
      caption: 'From the call to the first word of the first command',
      reference: BARE,
      columns: [{ title: 'start', unit: 'ms', series: columnOf(started, 0) }],
    }
    bench.say('memory, each alone')
    const taken = await memory(bench, rg)
    const places = await openPlaces(bench)
    const files: Table = {
      caption: `Tree of ${TREE} small files`,
      reference: NATIVE,
      columns: await worked(bench, places, FILES, rg),
    }
    const network: Table = {
      caption: 'Network: sessions through the gate, the others without one',
      reference: NATIVE,
      columns: await worked(bench, places, NETWORK, rg),
    }
    return {
      how: HOW,
      tables: [start, files, network, taken],
      goals: goals([start, files, taken]),
      limits: LIMITS,
    }
  },
}

type Places = readonly (readonly [name: string, place: Promise<Place>])[]

/** One agent in each place, all of them alive from the first column to the last. */
async function openPlaces(bench: Bench): Promise<Places> {
  const places: (readonly [string, Promise<Place>])[] = []
  for (const { name, opening } of await placesFor(bench, 'work', PLACES)) {
    const place = opening.then((open) => open())
    // Looked at later, by each workload.
    await place.catch(() => undefined)
    places.push([name, place])
  }
  return places
}

async function worked(
  bench: Bench,
  places: Places,
  workloads: readonly Workload[],
  rg: string,
): Promise<readonly Column[]> {
  const columns: Column[] = []
  for (const workload of workloads) {
    bench.say(workload.title)
    const contenders = places.map(([name, place]) => contender(name, place, workload, rg))
    const results = await paired(await Promise.all(contenders), WORK_ROUNDS)
    columns.push({ title: workload.title, unit: workload.unit, series: columnOf(results, 0) })
  }
  return columns
}

function contender(name: string, place: Promise<Place>, { run }: Workload, rg: string): Promise<Contender> {
  return attempt(name, async () => {
    const ready = await place
    return { name, measure: async () => [await run(ready, rg)] }
  })
}

const HOW = `*Start*: \`echo up\`, from the spawn to the first byte of its output, a session host being ready and all controls on; \`runsc do\`
rootless and without a network, \`bwrap\` with \`--unshare-all\`, QEMU with its defaults, a kernel, the image's initramfs and root (no cell around it, no view, network or TPM), until the guest's agent says its first word, when the root is
checked and mounted and a cell prepared: the kernel as Debian packages it, which unpacks itself, and as \`ambit image build\` puts it into the image. Sessions tell the guest more that saves
time without KVM (\`mitigations=off\`, a processor without \`erms\`) and ask for a TPM, which costs some.
Each in the same language (C.UTF-8: without one, \`echo\` opens a third of the files), and not while the session host that replaces an earlier start's is loading.
Without KVM everywhere (TCG). *From a snapshot*: after \`ambit image warm\`. *Files*: each row has its own copy of a tree and an empty directory, seen through the
view in sessions (\`bwrap\`: a bind; \`runsc do\`: its Gofer, written files stay in its memory); \`/tmp\` is the runtime's own, so that it tells what emulation costs without a view.
*passthrough_hp in the guest*: libfuse's example, from Debian's source, with its defaults (what it knows it keeps for a day), over the memory of a guest of its own:
the same kernel, root image, QEMU, memory and processors, no cell, the load program as PID 1 and root.
*Network*: the Go client and server of the gate's figure, 2 kept connections, and one upload. Bare \`bwrap\` and bare \`runsc do\` (\`--network=host\`) are on this machine's own network,
bare QEMU on one of QEMU's making (\`-netdev user\`). *Memory*: what its processes have mapped; a session's are its host, launcher, view, runtime, TPM and agent (\`ambitd\` is there once for all).
In each round each row is opened, does the work (but that in \`/tmp\`) once, is looked at and gone before the next one: there is never a second machine of the bench's. Pages of a program or
library count in full, once a session, whoever else has them: a proportional share would halve QEMU's beside another QEMU. *The guest's memory* is the one mapping of ${ISOLATION.memory}.`

const LIMITS = [
  'A machine without KVM runs every instruction of the guest in translation: what it costs over `os-sandbox` is mostly that, and the columns of `/tmp`, which has no view, show how much.',
  'Starts: `container` is bubblewrap, namespaces, view and gate around what `runsc do` does alone, and the launch of its guest; `microvm` cold boots the unpacked kernel in a cell, with a TPM and a network, and then is told its session, mounts the view and runs its command. On a machine without KVM that also works for others, a start from a snapshot waits for its processors, too: it needs some 0.7 s of one (docs/runtimes.md).',
  'Timeline of `container` (tracepoints of the scheduler and of system calls, one run of 225 ms with most other work stopped): 27 ms until the launcher starts (24 of them the session host: profile, policy, start on record), 25 ms until bubblewrap starts (namespaces, the view beside them), 8 ms bubblewrap, 35 ms until `runsc` has its first child, 35 ms until Gofer and Sentry have started themselves twice over, 71 ms until the guest’s command waits and has been looked at, 4 ms until that is on record durably, 20 ms until the first word. In some 35 ms of them nothing ran: each of gVisor’s five processes registers for membarrier(2), and the Sentry lets the table of its descriptors grow; the kernel grants either after a grace period of RCU (5 to 17 ms each). Now a filter refuses the one and a descriptor beyond 256 makes room for the other. Paired with the build before, 11 rounds beside other work: 261 → 217 ms at the median, `runsc do` 138. Next: the Sentry’s own boot (48 ms of processor time, 30 in `runsc do`), and the session host’s 24 ms.',
  'Done there: PID 1 of the guest is static (paired, `runsc do` with it beside one with a loader: 14 ms and 24 ms of processor time less; in a session part of it comes back, for then the command is the first to open libc); it resets one signal instead of 64 and stops at the last capability (each call costs 40 to 70 µs through ptrace); the library that every program preloads has one page less to write to; four mounts fewer. All together, 9 paired rounds on a busy machine: 1.36 × `runsc do`, 1.61 × before; a round of 7 with the static PID 1 and the fewer calls alone showed no gain (1.85 and 1.78). Tried without gain: Go’s collector off or rarer in `runsc` (it collects once). Not done because it would weaken something: `--file-access-mounts=exclusive`, a guest without its filter, a Sentry that starts before it is known what it may see.',
  'Timeline of `microvm` from a snapshot (the same way, 1.0 to 1.3 s): 30 ms until the launcher starts, 33 ms namespaces and both cells, 40 ms QEMU’s own start (beside it the TPM is started, owned and extended), 350 ms in which QEMU’s main thread read the snapshot (90 MiB of pages; each page of zeros of the guest’s memory was looked at, too), then the guest under TCG on two processors: 450 ms until it is ready (it translates all code anew: what QEMU translated is not in a snapshot), 200 ms until `echo` has run. Done: the TPM’s cell beside QEMU’s instead of before it, and QEMU starts while its TPM is measured into, which it must ask before it makes the machine (test/launch/tpm-first.test.ts): 35 to 45 ms less by one timeline of each; 5 paired rounds do not show it (0.999), for they differ by 300 ms among themselves.',
  'Done then: the memory is a file of the session’s own, filled by another thread while the cells are made (`x-ignore-shared`, decision 0007): QEMU read it for 285 ms before the first instruction, now another thread fills it in 50 (the whole start: 1,136 ms on a quiet machine before, 1,093 after, with all of these); the process that becomes PID 1 of the cell is in the snapshot; the guest makes a session ready on one processor, for two that wake each other take a tenth longer.',
  'Then, by a timeline of the guest’s own (of 970 ms between its order and ready, on a busy machine: 80 to make namespaces, 200 for the overlay, `/dev` and `/proc`, 150 to 190 for the network; it all is code that is translated when it first runs): the process that becomes PID 1 of the cell has made all that is the same in every cell before the snapshot, and the network is up in it. And a translated `rep stosb` stores byte by byte, so the guest is told that its processor has no fast one (`-erms`): bare QEMU, six boots of each beside other work, 2,067 → 1,953 ms at the median. Beside other work (load 7 to 11) nine starts took 2,127 ms at the median and nine of before, in turns, 2,820; at rest ten of each show nothing (918 to 1,469 ms, 1,043 to 1,292): there something other than work decides, probably how the two processors of the guest fall on two of the host. Next: that; then what reads the session’s 77 mounts, and 200 ms between the word to run and the command’s first instruction.',
  'Then: the bundle of trusted roots (219 KB) comes through the view instead of in the start message; the clock is counted and the memory filled before the word to build; after a snapshot no processors are started, and limits are watched while the host records; a link is made before it is looked at. Paired, 8 rounds each: beside other work (load 6) 2,071 → 1,355 ms at the median, at rest 848 → 706. `container`: PID 1 of the guest reads what a command opens first while that waits for its word (14 rounds at a load of 15, from the controls on record to the end of the command: 139 → 75 ms), four mounts fewer (bubblewrap alone: 1 ms), the watchdog starts while the controls are recorded; together, at rest, 14 rounds: 249 → 225 ms, less than they differ by among themselves (12 rounds just before showed none: 231 and 261).',
  'Cold: bare QEMU ends with the first word of the guest’s agent; a session is then made ready and runs its command. The first goal is against the kernel as Debian packages it, the second against the one that sessions boot. Its buffer of translated code, small for the sake of the goal of 60 MiB, costs a boot 5 %, and bare QEMU has the default one. Next: a snapshot, which `ambit image build` makes by itself, is the answer to a slow boot.',
  'Files: “three times the FUSE view under TCG” can mean two views. Beside a FUSE server in a bare guest, where both are translated, it says what our view costs; beside the view of `os-sandbox`, where only one is, it says what translation costs: bare QEMU with passthrough_hp is as far from that. Both stand among the goals; without KVM no view in a guest can meet the second one.',
  'Memory: the goal of 60 MiB is for what the machine adds, QEMU. All that its session has beside the guest is the column before: that is more than 60 MiB, as is a session of `os-sandbox`, which has no machine; most of it is Node. QEMU keeps the code that it has translated, and what the session ran decides how much that is; a session that does nothing has less. Bare QEMU has much more, for it keeps the kernel and the initramfs mapped, and a memory allocator for each thread.',
]

const MOST_SLOWER = 3
const MOST_OVERHEAD = 60

function goals(tables: readonly Table[]): readonly Goal[] {
  const columns = tables.flatMap((table) => table.columns)
  const titled = (title: string): Column | undefined => columns.find((column) => column.title === title)
  const times = (title: string, name: string, of: string, most: number, text: string): Goal => {
    const column = titled(title)
    const [ours, theirs] = column ? [valuesOf(column, name), valuesOf(column, of)] : []
    return goal(text, ours && theirs ? ratio(ours, theirs).p50 : null, (x) => x <= most, ' ×')
  }
  const value = (title: string, name: string, most: number, unit: string, text: string): Goal => {
    const column = titled(title)
    const values = column && valuesOf(column, name)
    return goal(text, values ? spread(values).p50 : null, (x) => x <= most, unit)
  }
  const view = (title: string, of: string): Goal =>
    times(title, MICROVM, of, MOST_SLOWER, `${title}, view in the guest: at most 3 × ${of}`)
  const overhead = (name: string): Goal =>
    value(MACHINE, name, MOST_OVERHEAD, ' MiB', `${name}: QEMU above the guest's memory at most 60 MiB`)
  return [
    times('start', CONTAINER, RUNSC, 1.5, `container starts in at most 1.5 × ${RUNSC}`),
    ...[QEMU, UNPACKED].map((bare) =>
      times('start', COLD, bare, 1.5, `microvm starts cold in at most 1.5 × ${bare}`),
    ),
    value('start', WARM, 1000, ' ms', 'microvm starts from a snapshot in at most 1 s'),
    ...[GUEST_FUSE, OS_SANDBOX].flatMap((of) =>
      [STATUS_TITLE, SEARCH, CREATE].map((title) => view(title, of)),
    ),
    ...[COLD, WARM].map(overhead),
  ]
}
