/** What each runtime costs, beside the bare means that it is built on: start, files, network, memory. */
import { readFileSync } from 'node:fs'
import { debianProgram } from '../cache.ts'
import { type Column, type Figure, type Goal, goal, type Table, valuesOf } from '../figure.ts'
import { attempt } from '../peers/attempt.ts'
import { columnOf, type Contender, paired, ratio, spread } from '../stats.ts'
import { GUEST_FUSE, GUEST_MEMORY, MICROVM, openPlaces, ownCopy, type Place } from './runtimes-places.ts'
import { NATIVE, TREE } from './runtimes-places.ts'
import { BARE, COLD, CONTAINER, ISOLATION, QEMU, RUNSC, starts, UNPACKED, WARM } from './runtimes-start.ts'

const START_ROUNDS = 5
const ROUNDS = 2
const CREATED = 100
const UPLOAD = 4_000_000
const MIB = 1 << 20

export const runtimes: Figure = {
  name: 'runtimes',
  title: 'Runtimes',
  async run(bench) {
    bench.say(`start, ${START_ROUNDS} rounds`)
    const started = await paired(await starts(bench), START_ROUNDS, 1)
    const start: Table = {
      caption: 'From the call to the first word of the first command',
      reference: BARE,
      columns: [{ title: 'start', unit: 'ms', series: columnOf(started, 0) }],
    }
    const places = await openPlaces(bench)
    const columns: Column[] = []
    const rg = await debianProgram('rg', 'ripgrep')
    for (const workload of ALL) {
      bench.say(workload.title)
      const contenders = await Promise.all(
        places.map(({ name, place }) => contender(name, place, workload, rg)),
      )
      const results = await paired(contenders, workload.rounds, workload.warmups)
      columns.push({ title: workload.title, unit: workload.unit, series: columnOf(results, 0) })
    }
    const at = (kind: Workload['kind']): Column[] =>
      columns.filter(({ title }) => ALL.find((one) => one.title === title)?.kind === kind)
    const files: Table = { caption: `Tree of ${TREE} small files`, reference: NATIVE, columns: at('files') }
    const network: Table = { caption: 'Through the gate', reference: NATIVE, columns: at('network') }
    const memory: Table = {
      caption: 'Memory of a session that has done all this',
      reference: null,
      columns: at('memory'),
    }
    return { how: HOW, tables: [start, files, network, memory], goals: goals(start, columns), limits: LIMITS }
  },
}

const HOW = `*Start*: \`echo up\`, from the spawn to the first byte of its output, a session host being ready and all controls on; \`runsc do\`
rootless and without a network, QEMU with its defaults, a kernel, the image's initramfs and root (no cell around it, no view, network or TPM), until the guest's agent says its first word, when the root is
checked and mounted and a cell prepared: the kernel as Debian packages it, which unpacks itself, and as \`ambit image build\` puts it into the image. Sessions tell the guest more that saves
time without KVM (\`mitigations=off\`, a processor without \`erms\`) and ask for a TPM, which costs some.
Each in the same language (C.UTF-8: without one, \`echo\` opens a third of the files), and not while the session host that replaces an earlier start's is loading.
Without KVM everywhere (TCG). *From a snapshot*: after \`ambit image warm\`. *Files*: each row has its own copy of a tree and an empty directory, seen through the
view in sessions (\`bwrap\`: a bind; \`runsc do\`: its Gofer, written files stay in its memory); \`/tmp\` is the runtime's own, so that it tells what emulation costs without a view.
*passthrough_hp in the guest*: libfuse's example, from Debian's source, with its defaults (what it knows it keeps for a day), over the memory of a guest of its own:
the same kernel, root image, QEMU, memory and processors, no cell, the load program as PID 1 and root.
*Network*: the Go client and server of the gate's figure, 2 kept connections, and one upload of ${UPLOAD / 1e6} MB. *Memory*: proportional set size of the session's host, launcher, view, runtime and agent;
*above the guest's memory* is QEMU without the mapping that is the guest's memory (${ISOLATION.memory}).`

const LIMITS = [
  'A machine without KVM runs every instruction of the guest in translation: what it costs over `os-sandbox` is mostly that, and the columns of `/tmp`, which has no view, show how much.',
  'Starts: `container` is bubblewrap, namespaces, view and gate around what `runsc do` does alone, and the launch of its guest; `microvm` cold boots the unpacked kernel in a cell, with a TPM and a network, and then is told its session, mounts the view and runs its command. On a machine without KVM that also works for others, a start from a snapshot waits for its processors, too: it needs some 0.7 s of one (docs/runtimes.md).',
  'Timeline of `container` at an earlier time (tracepoints of the scheduler, under real-time scheduling because of other work; `runsc do` took 125 to 145 ms there): 25 ms until the launcher starts (profile, agent, start on record), 8 ms namespaces, 19 ms bubblewrap, 50 ms until `runsc` has started itself five times over (Gofer and Sentry twice each; `runsc do` takes as long), 30 ms until the Sentry has mounted and runs its first program (as long, too), 30 ms in the guest until its command’s process waits and has been looked at, 8 ms until that is on record durably, 25 to 30 ms until the command is loaded and has said its word. So at that time some 100 ms were beyond `runsc do`, of which Ambit’s own start was half; of the medians above it is 140.',
  'Done there: PID 1 of the guest is static (paired, `runsc do` with it beside one with a loader: 14 ms and 24 ms of processor time less; in a session part of it comes back, for then the command is the first to open libc); it resets one signal instead of 64 and stops at the last capability (each call costs 40 to 70 µs through ptrace); the library that every program preloads has one page less to write to; four mounts fewer. All together, 9 paired rounds on a busy machine: 1.36 × `runsc do`, 1.61 × before; a round of 7 with the static PID 1 and the fewer calls alone showed no gain (1.85 and 1.78). Tried without gain: Go’s collector off or rarer in `runsc` (it collects once). Not done because it would weaken something: `--file-access-mounts=exclusive`, a guest without its filter, a Sentry that starts before it is known what it may see.',
  'Timeline of `microvm` from a snapshot (the same way, 1.0 to 1.3 s): 30 ms until the launcher starts, 33 ms namespaces and both cells, 40 ms QEMU’s own start (beside it the TPM is started, owned and extended), 350 ms in which QEMU’s main thread read the snapshot (90 MiB of pages; each page of zeros of the guest’s memory was looked at, too), then the guest under TCG on two processors: 450 ms until it is ready (it translates all code anew: what QEMU translated is not in a snapshot), 200 ms until `echo` has run. Done: the TPM’s cell beside QEMU’s instead of before it, and QEMU starts while its TPM is measured into, which it must ask before it makes the machine (test/launch/tpm-first.test.ts): 35 to 45 ms less by one timeline of each; 5 paired rounds do not show it (0.999), for they differ by 300 ms among themselves.',
  'Done then: the memory is a file of the session’s own, filled by another thread while the cells are made (`x-ignore-shared`, decision 0007): QEMU read it for 285 ms before the first instruction, now another thread fills it in 50 (the whole start: 1,136 ms on a quiet machine before, 1,093 after, with all of these); the process that becomes PID 1 of the cell is in the snapshot; the guest makes a session ready on one processor, for two that wake each other take a tenth longer.',
  'Then, by a timeline of the guest’s own (of 970 ms between its order and ready, on a busy machine: 80 to make namespaces, 200 for the overlay, `/dev` and `/proc`, 150 to 190 for the network; it all is code that is translated when it first runs): the process that becomes PID 1 of the cell has made all that is the same in every cell before the snapshot, and the network is up in it. And a translated `rep stosb` stores byte by byte, so the guest is told that its processor has no fast one (`-erms`): bare QEMU, six boots of each beside other work, 2,067 → 1,953 ms at the median. Beside other work (load 7 to 11) nine starts took 2,127 ms at the median and nine of before, in turns, 2,820; at rest ten of each show nothing (918 to 1,469 ms, 1,043 to 1,292): there something other than work decides, probably how the two processors of the guest fall on two of the host. Next: that; then what reads the session’s 77 mounts, and 200 ms between the word to run and the command’s first instruction.',
  'Then: the bundle of trusted roots (219 KB) comes through the view instead of in the start message; the clock is counted and the memory filled before the word to build; after a snapshot no processors are started, and limits are watched while the host records; a link is made before it is looked at. Paired, 8 rounds each: beside other work (load 6) 2,071 → 1,355 ms at the median, at rest 848 → 706. `container`: PID 1 of the guest reads what a command opens first while that waits for its word (14 rounds at a load of 15, from the controls on record to the end of the command: 139 → 75 ms), four mounts fewer (bubblewrap alone: 1 ms), the watchdog starts while the controls are recorded; together, at rest, 14 rounds: 249 → 225 ms, less than they differ by among themselves (12 rounds just before showed none: 231 and 261).',
  'Cold: bare QEMU ends with the first word of the guest’s agent; a session is then made ready and runs its command. The first goal is against the kernel as Debian packages it, the second against the one that sessions boot: of the medians above, some 1.8 ×. Its buffer of translated code, small for the sake of the goal of 60 MiB, costs a boot 5 %, and bare QEMU has the default one. Next: a snapshot, which `ambit image build` makes by itself, is the answer to a slow boot.',
  'Memory: QEMU keeps the code that it has translated, and what the session ran decides how much that is; a session that does nothing has less.',
]

interface Workload {
  readonly title: string
  readonly unit: string
  readonly kind: 'files' | 'network' | 'memory'
  readonly rounds: number
  readonly warmups: number
  readonly run: (place: Place, rg: string) => Promise<number>
}

const STATUS = ['/usr/bin/git', '-c', 'safe.directory=*', 'status', '--porcelain']

const ms = async ({ agent }: Place, order: object): Promise<number> =>
  (await agent.number({ ...order }, 'seconds')) * 1000

/** The same tree in the runtime's own memory: what the work costs there without a view. */
async function ownStatus(place: Place): Promise<number> {
  const copy = ownCopy(place.tree)
  const once = `test -d ${copy} || cp -a ${place.tree} ${copy}`
  await place.agent.ask({ op: 'exec', argv: ['/bin/sh', '-c', once], dir: '/' })
  return await ms(place, { op: 'exec', argv: STATUS, dir: copy })
}

/** The server is asked by who has a way to it. */
async function ask({ agent, order }: Place, more: object, key: string): Promise<number> {
  if (order === null) throw new Error('it was given no network')
  return await agent.number({ ...order, ...more }, key)
}

const FILES = { unit: 'ms', kind: 'files', rounds: ROUNDS, warmups: 1 } as const
const NETWORK = { kind: 'network', rounds: ROUNDS, warmups: 1 } as const
const MEMORY = { unit: 'MiB', kind: 'memory', rounds: 1, warmups: 0 } as const

const CREATE = `create ${CREATED}`
const OWN_STATUS = 'git status, /tmp'
const OWN_CREATE = `${CREATE}, /tmp`
const ABOVE = "QEMU above the guest's memory"

const ALL: readonly Workload[] = [
  { ...FILES, title: 'git status', run: (place) => ms(place, { op: 'exec', argv: STATUS, dir: place.tree }) },
  {
    ...FILES,
    title: 'rg -c foo',
    run: (place, rg) => ms(place, { op: 'exec', argv: [place.rg ?? rg, '-c', 'foo'], dir: place.tree }),
  },
  { ...FILES, title: CREATE, run: (place) => ms(place, { op: 'create', dir: place.dir, files: CREATED }) },
  { ...FILES, title: OWN_STATUS, run: ownStatus },
  {
    ...FILES,
    title: OWN_CREATE,
    run: (place) => ms(place, { op: 'create', dir: '/tmp', files: CREATED }),
  },
  {
    ...NETWORK,
    title: 'GET, kept, c=2',
    unit: 'req/s',
    run: (place) => ask(place, { op: 'get', clients: 2, seconds: 1 }, 'rate'),
  },
  {
    ...NETWORK,
    title: `POST ${UPLOAD / 1e6} MB`,
    unit: 'MB/s',
    run: (place) => ask(place, { op: 'post', bytes: UPLOAD }, 'rate'),
  },
  { ...MEMORY, title: 'whole session', run: async ({ processes }) => sumOf(processes, pssOf) },
  { ...MEMORY, title: ABOVE, run: async ({ processes }) => sumOf(processes, aboveGuest) },
]

function sumOf(processes: Place['processes'], of: (pid: number) => number): number {
  const bytes = (processes?.() ?? []).reduce((sum, pid) => sum + of(pid), 0)
  if (bytes === 0) throw new Error('there is none')
  return bytes / MIB
}

const read = (path: string): string => {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return '' // gone meanwhile, or not ours to look at
  }
}

const pssOf = (pid: number): number =>
  Number(/^Pss:\s+(\d+)/m.exec(read(`/proc/${pid}/smaps_rollup`))?.[1] ?? 0) * 1024

/** Of QEMU, all but the one mapping that is as large as the guest's memory; of others nothing. */
function aboveGuest(pid: number): number {
  if (!read(`/proc/${pid}/cmdline`).includes('qemu-system')) return 0
  const mappings = read(`/proc/${pid}/smaps`).split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m)
  const kilobytes = (text: string, key: string): number =>
    Number(new RegExp(`^${key}:\\s+(\\d+)`, 'm').exec(text)?.[1] ?? 0)
  const guests = mappings.filter((text) => kilobytes(text, 'Size') * 1024 === GUEST_MEMORY)
  const guest = guests.reduce((sum, text) => sum + kilobytes(text, 'Pss') * 1024, 0)
  return guest === 0 ? 0 : pssOf(pid) - guest
}

function contender(name: string, place: Promise<Place>, { run }: Workload, rg: string): Promise<Contender> {
  return attempt(name, async () => {
    const ready = await place
    return { name, measure: async () => [await run(ready, rg)] }
  })
}

function goals(start: Table, columns: readonly Column[]): readonly Goal[] {
  const titled = (title: string): Column | undefined => columns.find((column) => column.title === title)
  const times = (column: Column | undefined, name: string, of: string): number | null => {
    const [ours, theirs] = column ? [valuesOf(column, name), valuesOf(column, of)] : []
    return ours && theirs ? ratio(ours, theirs).p50 : null
  }
  const value = (column: Column | undefined, name: string): number | null => {
    const values = column && valuesOf(column, name)
    return values ? spread(values).p50 : null
  }
  const [started] = start.columns
  return [
    goal(
      `container starts in at most 1.5 × ${RUNSC}`,
      times(started, CONTAINER, RUNSC),
      (x) => x <= 1.5,
      ' ×',
    ),
    ...[QEMU, UNPACKED].map((bare) =>
      goal(`microvm starts cold in at most 1.5 × ${bare}`, times(started, COLD, bare), (x) => x <= 1.5, ' ×'),
    ),
    goal('microvm starts from a snapshot in at most 1 s', value(started, WARM), (x) => x <= 1000, ' ms'),
    ...['git status', 'rg -c foo', CREATE].map((title) =>
      goal(
        `${title}, view in the guest: at most 3 × passthrough_hp in the guest`,
        times(titled(title), MICROVM, GUEST_FUSE),
        (x) => x <= 3,
        ' ×',
      ),
    ),
    goal(`${ABOVE}: at most 60 MiB`, value(titled(ABOVE), MICROVM), (x) => x <= 60, ' MiB'),
  ]
}
