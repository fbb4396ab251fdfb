/** File work through the view, beside the bare file system and other FUSE file systems. */
import { closeSync, mkdirSync, openSync, rmSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { debianProgram, loadProgram, sh } from '../cache.ts'
import {
  type Bench,
  type Column,
  type Figure,
  type Goal,
  goal,
  goalOfAll,
  type Table,
  valuesOf,
} from '../figure.ts'
import { LineProcess } from '../line-process.ts'
import { attempt } from '../peers/attempt.ts'
import { columnOf, type Contender, paired, ratio } from '../stats.ts'
import { tmpfs } from '../tmpfs.ts'
import { FILES, hardLimit, makeTree } from '../tree.ts'
import { mountedBeside, servedBy } from './view-counts.ts'
import { NATIVE, PLACES, type Place, REVIEW, SESSION, VIA_MOUNT, VIEW } from './view-places.ts'

const GIB = 1 << 30
const CREATED = 5_000

type Places = readonly { readonly name: string; readonly place: Promise<Place> }[]

interface Workload {
  readonly on: 'tree' | 'tmp'
  /** Titles of the columns it fills. */
  readonly titles: readonly string[]
  readonly rounds: number
  readonly warmups: number
  /** The command, where it is one. */
  readonly argv?: readonly string[]
  /** Milliseconds that `place` needs, for each column. */
  run(place: Place): Promise<readonly number[]>
}

export const view: Figure = {
  name: 'view',
  title: 'File view',
  async run(bench) {
    const places = await preparePlaces(bench)
    const columns: Column[] = []
    const all = await workloads()
    for (const workload of all) {
      bench.say(workload.titles.join(', '))
      const contenders = await Promise.all(places.map(({ name, place }) => contender(name, place, workload)))
      const results = await paired(contenders, workload.rounds, workload.warmups)
      workload.titles.forEach((title, index) =>
        columns.push({ title, unit: 'ms', series: columnOf(results, index) }),
      )
    }
    const small: Table = {
      caption: `Tree of ${FILES} small files, warm`,
      reference: NATIVE,
      columns: columns.slice(0, 5),
    }
    const large: Table = { caption: 'A file of 1 GiB on tmpfs', reference: NATIVE, columns: columns.slice(5) }
    const reached = goals(columns)
    const counts = await countedMisses(bench, places, all, reached)
    return { how: HOW, tables: [small, large], goals: reached, limits: [...LIMITS, ...counts] }
  },
}

const FEWER =
  FILES === 20_000
    ? ''
    : `The tree has ${FILES} files and not 20,000: passthrough_hp
keeps a descriptor for each inode, and a process may have ${hardLimit()} here.`

const HOW = `Each row has its own copy of the tree (git, packed) on the disk of /var/tmp, its page cache warm after one unrecorded round
that also brings git's index up to date, and its own directory on tmpfs for the creation of ${CREATED} files and for the large file.
*View* rows run \`ambit-view mount\`: the file system as sessions have it (default hide and protect rules, records, digests), without the
rest of a session; one row with access \`write\`, one with \`review\`. The *session* rows run the same commands inside \`ambit run\`, one with the tree as a plain read-only mount. bindfs runs
with threads and 60 s caches, passthrough_hp (libfuse's example, from Debian's source) with its defaults. "first" reads the large file through empty
caches of the file system measured (its backing is in memory), "again" right after that. A goal is met when all of *view, write*, *view, review*
and *session, write* meet it; *measured* has the three in this order. ${FEWER}`

const LIMITS = [
  "An unchanged tree costs no requests: the kernel keeps names, missing names, attributes and listings for five minutes and opens directories by itself; the view watches the host (inotify) and takes back what changes. `git status` and `find` are then the kernel's own FUSE code. What is left is asked once for each name: the first look at a tree, and a second one after five minutes (bindfs keeps for 60 s, passthrough_hp for a day).",
  '`rg` and `tar` ask twice a file: an open, for which the reader waits, and a release, for which it does not. The open is decided and recorded each time (a handful of system calls, one of them the record); most of it is waking a thread of the view on another processor and then the reader. One thread serves clients that take turns and looks for the next request for up to 60 µs before it sleeps; others join when requests queue, as many as there are processors beside the client’s. With two processors that is none: a second thread took the client’s place and slept where the first would have been awake (paired, quiet: creation 1,323 → 795 ms, `rg` 1,211 → 1,021, `tar` 2,338 → 2,005). What a wake-up costs shows a run with view and client bound to one processor, where none is woken on another: `tar` 930 to 980 ms, `rg` 710 to 810. It is not to be had: bound alone, the view is not faster (2,250; 1,130), since the kernel, which wakes a client without FUSE’s saying that its server is about to sleep, puts it on the other processor; and an agent is not bound to one. Not taken: no opens at all (the kernel would allow it), which would lose the record. Next: FUSE over io_uring, with a queue for each processor, where a system has it switched on.',
  "Creation: five requests a file (the directory's attributes, which the kernel forgets after each creation; lookup, create, write, release), of which the last is not waited for; bindfs and passthrough_hp are asked for a flush too. Two records: create and open are one write, what was written goes on record with the release. A file of a burst is covered by a durable intent for 256 of them when it is made, so its close asks nothing (FOPEN_NOFLUSH); alone, a close waits for one `fdatasync`. A new file opened only to be written does not ask for capabilities before its first write; one opened to be read too still does. Not to be had: the directory's attributes and the lookup, which the kernel asks before every creation; no reply or notice can give them beforehand. Rejected: the digest from what was written, since a host process may write the same file. Half of what the view spent on itself here was comparing names with the rules’ patterns, each with a copy of the name; now it is a look-up by last name and a comparison in place.",
  "Large reads: the kernel asks in pieces of 128 KiB, its read-ahead limit for FUSE (only root may raise it for a mount): 8,192 requests for 1 GiB, each copied twice more than natively. Pages stay from one open to the next while the file is what they were read from; of a file that changed within 20 ms of its first open, what was read in that moment is read again. Large writes: one request for 1 MiB; a new file opened only to be written goes past the kernel's pages (when that came, one paired run: 1.1 × native, before 2.9; the table has what this run saw, and native writes to memory differ twofold among themselves), any other is first copied into its cache (no write-back cache: it would win over the host's own changes). FUSE passthrough would take both away; it needs CAP_SYS_ADMIN outside all namespaces and would move the bytes past quota, digest and a grant that shrinks. Not for files that existed: a reader that maps one may hold an old page for moments, on which a database may rely. Not tried: pieces spliced from the host's file to the device, one copy less.",
  '`via: mount`: overlayfs shows other inode numbers than git’s index has (and to root’s agent other owners), so git read each file again, 8 × native; the session’s git now compares size and time (`core.checkStat`): 1.3 × (18,000 files, one paired run, 256 ms before, 42 after, 32 natively). The rest, and `find`, `rg` and `tar`, is overlayfs itself: two lookups and two inodes a name. A plain bind would be native, but the agent could reach sockets beneath it (C-42), which Landlock refuses only from ABI 9.',
  'Ambit alone records every open for reading and digests what was read and written; that work shares these cores with the reader, and passthrough_hp, which does neither, is ahead where little else counts: large files. What stands behind each line that misses its goal is counted below, in one run more, the removal of what it made included: requests and calls by `strace`, processor time without it.',
]

async function workloads(): Promise<readonly Workload[]> {
  const rg = await debianProgram('rg', 'ripgrep').catch(() => null)
  const search = rg ? [rg, '-c', 'foo'] : ['/usr/bin/grep', '-rc', '--exclude-dir=.git', 'foo', '.']
  const command = (title: string, argv: readonly string[]): Workload => ({
    on: 'tree',
    titles: [title],
    rounds: 5,
    warmups: 1,
    argv,
    run: async ({ agent, tree }) => [await inMs(agent, { op: 'exec', argv, dir: tree })],
  })
  return [
    command('git status', ['/usr/bin/git', '-c', 'safe.directory=*', 'status', '--porcelain']),
    command(rg ? 'rg -c foo' : 'grep -rc foo', search),
    command('find', ['/usr/bin/find', '.', '-type', 'f', '-size', '+1']),
    command('tar', ['/usr/bin/tar', '-cf', '-', '--exclude=.git', '.']),
    {
      on: 'tmp',
      titles: [`create ${CREATED}`],
      rounds: 3,
      warmups: 1,
      run: async ({ agent, tmp }) => [await inMs(agent, { op: 'create', dir: tmp, files: CREATED })],
    },
    { on: 'tmp', titles: ['read, first', 'read, again'], rounds: 3, warmups: 0, run: readLarge },
    {
      on: 'tmp',
      titles: ['write'],
      rounds: 3,
      warmups: 0,
      run: async ({ agent, tmp }) => [
        await inMs(agent, { op: 'write', path: join(tmp, 'written'), bytes: GIB }),
      ],
    },
  ]
}

/** What the lines that miss a goal are made of. */
async function countedMisses(
  bench: Bench,
  places: Places,
  all: readonly Workload[],
  goals: readonly Goal[],
): Promise<readonly string[]> {
  const missed = goals.filter(({ met }) => met === false).map(({ text }) => text)
  const misses = (title: string): boolean => missed.some((text) => text.startsWith(`${title}:`))
  const placeOf = (name: string): Promise<Place> =>
    places.find((one) => one.name === name)?.place ?? Promise.reject(new Error(`there is no ${name}`))
  const lines: string[] = []
  for (const work of all) {
    if (work.titles.some(misses)) {
      bench.say(`counting: ${work.titles.join(', ')}`)
      lines.push(await servedBy(bench, placeOf(VIEW), work))
    }
  }
  for (const work of all) {
    const { argv } = work
    if (!argv || !missed.some((text) => text.startsWith(`${work.titles[0]}, ${VIA_MOUNT}:`))) continue
    bench.say(`counting: ${work.titles.join(', ')}, ${VIA_MOUNT}`)
    const systemMs = async ({ agent, tree }: Place): Promise<number> =>
      (await agent.number({ op: 'exec', argv, dir: tree }, 'system')) * 1000
    lines.push(await mountedBeside(bench, [placeOf(NATIVE), placeOf(VIA_MOUNT)], work, systemMs))
  }
  return lines
}

const inMs = async (agent: LineProcess, order: Record<string, unknown>): Promise<number> =>
  (await agent.number(order, 'seconds')) * 1000

/** Milliseconds of the first and the second read of a file that was just made behind the file system. */
async function readLarge({ agent, tmp, tmpBacking }: Place): Promise<readonly number[]> {
  const chunk = Buffer.alloc(1 << 20, 'a line of sixteen')
  const name = `large-${process.hrtime.bigint()}`
  const fd = openSync(join(tmpBacking, name), 'wx')
  for (let i = 0; i < GIB / chunk.length; i++) writeSync(fd, chunk)
  closeSync(fd)
  try {
    const order = { op: 'read', path: join(tmp, name) }
    return [await inMs(agent, order), await inMs(agent, order)]
  } finally {
    rmSync(join(tmpBacking, name))
  }
}

/** Every place with its tree, or the promise's reason why not. */
async function preparePlaces(bench: Bench): Promise<Places> {
  bench.say(`making ${PLACES.length} trees of ${FILES} files`)
  const load = await loadProgram()
  const first = join(bench.scratch, 'tree-0')
  mkdirSync(first)
  await makeTree(first)
  const memory = await tmpfs(bench)
  const places: { name: string; place: Promise<Place> }[] = []
  for (const [index, { name, open }] of PLACES.entries()) {
    const tree = join(bench.scratch, `tree-${index}`)
    const tmp = join(memory, String(index))
    mkdirSync(tmp)
    if (index > 0) await sh('cp', ['-a', first, tree])
    // A copy has other inodes than git's index says; a read-only place could never correct that.
    await sh('git', ['-c', 'safe.directory=*', 'status', '--porcelain'], tree)
    const place = open({ bench, load, tree, tmp, mounts: join(bench.scratch, `mounts-${index}`) })
    // Looked at later, by each workload.
    await place.catch(() => undefined)
    places.push({ name, place })
  }
  return places
}

const contender = (name: string, place: Promise<Place>, workload: Workload): Promise<Contender> =>
  attempt(name, async () => {
    const ready = await place
    if (workload.on === 'tmp' && !ready.ownTmp) throw new Error('for this it is the same as a session')
    return { name, measure: () => workload.run(ready) }
  })

/** Times native that are the goal: title of the column, aim. */
const AIMS: readonly (readonly [string, number])[] = [
  ['git status', 2],
  ['rg -c foo', 4],
  ['find', 2],
  ['tar', 3],
  [`create ${CREATED}`, 13],
  ['read, first', 1.25],
  ['read, again', 1.25],
  ['write', 1.25],
]

function goals(columns: readonly Column[]): readonly Goal[] {
  const times = (column: Column | undefined, name: string, of: string): number | null => {
    const [ours, theirs] = column ? [valuesOf(column, name), valuesOf(column, of)] : []
    return ours && theirs ? ratio(ours, theirs).p50 : null
  }
  const of = (title: string): Column | undefined => columns.find((column) => column.title === title)
  const ours = (title: string, reference: string) =>
    [VIEW, REVIEW, SESSION].map((name) => times(of(title), name, reference))
  const ahead = ['bindfs', 'passthrough_hp'].flatMap((peer) =>
    AIMS.map(([title]) =>
      goalOfAll(`${title}: ahead of ${peer}`, ours(title, peer), (value) => value < 1, ' of its time'),
    ),
  )
  const aims = AIMS.map(([title, aim]) =>
    goalOfAll(`${title}: at most ${aim} × native`, ours(title, NATIVE), (value) => value <= aim, ' ×'),
  )
  const mount = AIMS.slice(0, 4).map(([title]) =>
    goal(
      `${title}, ${VIA_MOUNT}: at most 1.1 × native`,
      times(of(title), VIA_MOUNT, NATIVE),
      (value) => value <= 1.1,
      ' ×',
    ),
  )
  return [...ahead, ...aims, ...mount]
}
