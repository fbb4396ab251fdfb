/** HTTPS through the gate, beside other inspecting proxies and the direct way. */
import { copyFileSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { loadProgram } from '../cache.ts'
import { type Bench, type Column, type Figure, type Goal, goal, type Table, valuesOf } from '../figure.ts'
import { LineProcess } from '../line-process.ts'
import { attempt } from '../peers/attempt.ts'
import { startSquid } from '../peers/squid.ts'
import { srtCommand, startSrtProxy } from '../peers/srt.ts'
import { profileOf } from './gate-profile.ts'
import { product, residentBytes, sessionProcess } from '../product.ts'
import { writeProfile } from '../profile.ts'
import { columnOf, type Contender, paired, ratio, spread } from '../stats.ts'
import { tmpfs } from '../tmpfs.ts'

const UPLOAD = 100_000_000
const FLOWS = [100, 200] as const
const MIB = 1024 * 1024

const DIRECT = 'direct'
const AMBIT = 'Ambit, inside a session'
const VOLATILE = 'the same, state on tmpfs (nothing durable)'
const SRT = 'srt tlsTerminate, inside its sandbox'
const SRT_PROXY = "srt tlsTerminate, the proxy's module alone"
const SQUID = 'squid-openssl ssl-bump'

/** A way to the upstream: an agent, what it needs to know, and whose memory counts. */
interface Way {
  readonly agent: LineProcess
  /** Added to each order. */
  readonly order: { readonly url: string; readonly ca?: string; readonly proxy?: string }
  /** Bytes resident in the proxy; null when there is none. */
  readonly resident: () => number | null
  /** The gate's process. */
  readonly host?: number
}

type Ways = readonly { readonly name: string; readonly way: Promise<Way> }[]

interface Upstream {
  readonly child: LineProcess
  readonly load: string
  readonly port: number
  readonly ca: string
}

export const gate: Figure = {
  name: 'gate',
  title: 'Gate',
  async run(bench) {
    const upstream = await startUpstream(bench)
    const ways = WAYS.map(({ name, open }) => ({ name, way: open(bench, upstream) }))
    await Promise.allSettled(ways.map(({ way }) => way))
    const columns: Column[] = []
    for (const workload of WORKLOADS) {
      bench.say(workload.titles.join(', '))
      const contenders = await Promise.all(ways.map(({ name, way }) => contender(name, way, workload)))
      const results = await paired(contenders, workload.rounds, workload.warmups)
      workload.titles.forEach((title, index) =>
        columns.push({ title, unit: workload.units[index] ?? '', series: columnOf(results, index) }),
      )
    }
    const table: Table = {
      caption: 'Requests and bytes',
      reference: DIRECT,
      columns: columns.slice(0, -FLOWS.length),
    }
    const resident: Table = { caption: 'Memory', reference: null, columns: columns.slice(-FLOWS.length) }
    bench.say('connections to the upstream, profile')
    const upstreams: Table = {
      caption: 'Connections that the upstream had, by its own count',
      reference: null,
      columns: await pooling(ways, upstream),
    }
    const tables = [table, resident, upstreams]
    return { how: HOW, tables, goals: goals(columns), limits: [...LIMITS, await profile(bench, ways)] }
  },
}

const HOW = `The same Go client and Go HTTPS upstream (P-256, X25519, HTTP/1.1) for all, all on this machine. *Ambit*: the client runs inside
\`ambit run\` and simply connects; the namespace delivers it to the gate, which inspects TLS, verifies the upstream's
certificate, decides by host, method and path, counts the upload, and has the records of view, launcher and gate durable before the first byte of a
request goes out. *srt* runs twice: as its users run it (\`srt --settings … -- client\`, one allowed domain, tlsTerminate) and its proxy's module alone, no
sandbox. *squid* bumps TLS, verifies, and writes its access log. No peer makes a record durable; one row has Ambit's state on tmpfs, to show what that costs. Kept connections: 8 clients, each
with its own, two seconds a round after three unrecorded ones (two of these are Node, whose compiler takes that long); new connections: 4 clients, a full handshake for each request (no client-side resumption);
*on both sides*: the upstream, too, ends its connection with each answer, so that what Ambit gains by keeping connections to it for all of a session's clients does not count: this
column compares like with like. The upstream gives no TLS session tickets, so nobody resumes; it counts the connections that each way made. Memory: resident bytes of the proxying process (for Ambit the whole supervisor of
the session) while that many responses are open, after the load.`

const LIMITS = [
  'Against the module of srt alone, which has no sandbox and writes no record, kept GETs miss the goal; the row on tmpfs shows how much of that is the disk, the last line here, taken in this run, what the gate’s process does with its time. New connections: Ambit keeps its own to the upstream for all clients of a session, squid and srt make one for each of the client’s; the column *on both sides* is without that gain. Nor does it count that Ambit resumes TLS sessions there, which neither of them did with an upstream that gives tickets (all of Ambit’s new connections, none of theirs; squid with its cache of sessions on).',
  'Client, proxy and upstream share the cores; with two cores the direct way is itself CPU-bound. On a machine that also works for others, compare CPU (user and system, from /proc, of runs side by side): a kept GET cost the gate 500 to 580 µs at first, 380 to 470 with a link of its own, and less with the inlet (below); the module of srt 240 to 360; squid 145. Client and upstream take some 100 each, and `ambitd`, which sequences and signs the records meanwhile, cost 147 before its shares grew.',
  'Durability: each request waits for a `fdatasync`, shared by the requests that wait with it; the row on tmpfs shows what is left without. One `fdatasync` costs 180 µs of CPU here and takes from 0.3 ms (quiet disk) to 4 ms (busy), which is why this row falls furthest on a busy machine.',
  "Done: records of one turn of the event loop are one write, one barrier and one timer serve all requests that were read or wait together, sizes of journals are asked natively (5.6 `statx` a request at 6 µs each with `fs.Stats`), a link of our own to the server on Node's llhttp replaces the client and agent of `node:http`, authority and target are made once a flow. Towards the client an inlet of our own, on llhttp too, reads what is usual (a whole head, no body or one of declared length) and leaves the connection to `node:http` for all else: 228 → 194 µs of CPU a kept GET in the gate alone (records on tmpfs, least of six paired rounds; srt's module beside it 263; nine rounds on a busier machine: median 315 → 291, the least alike), and one copy of each 16 KiB of an upload less. A piece of an upload compares the monitor's epoch instead of asking policy again (it was 6 %).",
  'Then TLS and the bodies of uploads moved to native code (rustls, docs/decisions/0008): Node had written TLS records for 29 % of a kept GET and 36 % of a POST. CPU of the session host, runs side by side with the build before it on a loaded machine: a kept GET 363 against 519 µs (srt in its sandbox 380; three rounds; in another run 403 against 873), a new connection 1.7 against 2.3 ms, a POST 1.15 against 5.5 ms a MB (srt 5.9). An answer that is whole when it is seen is written at once, without a stream.',
  'Then records are stamped, framed, summed and written by the addon (they were a sixth of the main thread), a request asks for the state of the session twice instead of five times (each looks at the view’s journal), and a small answer that lies whole in what was decrypted goes to its client without JavaScript: 251 → 203 µs of CPU a kept GET, median of four late paired rounds on a loaded machine.',
  'Tried without gain: `fdatasync` on the event loop; preallocating the journal with zeros (paired: 1.61 against 1.66 ms, 192 against 179 µs of CPU); gathering the pieces of an upload into one write a turn (the same CPU, for one more copy). A file that is preallocated beyond its end (`FALLOC_FL_KEEP_SIZE`) costs as much to sync as one that is not (1.2 of it, seven rounds): the size still changes. Waiting two more turns of the loop before a barrier, so that more requests share it: 0.16 syncs a request for 0.24, but 0.98 and 1.01 of the CPU and 1.00 of the rate (20 and 12 paired rounds). One thread for garbage: no gain. A nicer `ambitd` is not possible as it is: the warm session host would inherit it.',
  'Done in `ambitd`: what it sequences while nobody waits comes in shares of 256 facts with pauses of 20 ms, not in one burst a second (smaller ones, 48 and 4 ms, already gave 1.30 of the rate); each fact becomes its entry at once instead of being kept for the batch, and the two kinds of a request have a parser and an encoder of their own: 21 to 24 → 14 to 17 µs of CPU a fact at that pace, two facts a GET (paired, loaded machine); the rest of its cost is files, syncs and what a processor forgets between shares.',
  'An upstream connection that flows of one client take in turns is on record once for each, not with each request (0.92 of the CPU, paired; three records a request had become two again), and a small request makes fewer promises, listeners and parsers (0.97, ten paired rounds on a loaded machine). What is left of the difference to the row on tmpfs is the disk.',
  'Memory: young objects of the session host get 8 MiB a half from the start (a start is faster by it), malloc two arenas. That let garbage of uploads, each 16 KiB outside the heap, stay until 191 MiB; when bodies were no objects any more it was 107 to 113 MiB at 100 flows and 119 to 126 at 200 (144 to 153 with the build before, same run); what it is now stands in the table.',
  'Next: half of the gate’s time on a kept GET is V8 and Node (profile), so a request like the one before it (same flow, same rule, same epoch of the session) could be read, recorded and passed on by the addon, with JavaScript asked only for what is new. Answers with large bodies still come through JavaScript, 64 KiB at a time; they can be passed on like uploads where nothing is scrubbed.',
]

interface Workload {
  readonly titles: readonly string[]
  readonly units: readonly string[]
  readonly rounds: number
  readonly warmups: number
  run(way: Way): Promise<readonly number[]>
}

const KEPT = 'GET, kept, c=8'
const FRESH = 'GET, new connection each, c=4'
const BOTH = 'GET, new on both sides, c=4'
const UPLOADED = 'POST 100 MB'

const kept = (way: Way): Promise<readonly number[]> => get(way, { clients: 8, seconds: 2 })
const fresh = (way: Way): Promise<readonly number[]> => get(way, { clients: 4, seconds: 1, fresh: true })
/** The upstream ends each connection with its answer, so that none can be kept there either. */
const both = (way: Way): Promise<readonly number[]> =>
  fresh({ ...way, order: { ...way.order, url: `${way.order.url}/close` } })

const WORKLOADS: readonly Workload[] = [
  {
    titles: [KEPT, 'p50', 'p99'],
    units: ['req/s', 'ms', 'ms'],
    rounds: 5,
    warmups: 3,
    run: kept,
  },
  {
    titles: [FRESH, 'p50'],
    units: ['conn/s', 'ms'],
    rounds: 5,
    warmups: 1,
    run: fresh,
  },
  { titles: [BOTH], units: ['conn/s'], rounds: 5, warmups: 1, run: both },
  {
    titles: [UPLOADED],
    units: ['MB/s'],
    rounds: 5,
    warmups: 1,
    run: async ({ agent, order }) => [await agent.number({ ...order, op: 'post', bytes: UPLOAD }, 'rate')],
  },
  ...FLOWS.map((flows) => ({
    titles: [`resident at ${flows} open flows`],
    units: ['MiB'],
    rounds: 3,
    warmups: 0,
    run: (way: Way) => residentWhileHolding(way, flows),
  })),
]

async function get(way: Way, more: object): Promise<readonly number[]> {
  const { rate, p50, p99 } = await way.agent.ask({ ...way.order, ...more, op: 'get' })
  return [Number(rate), Number(p50), Number(p99)]
}

async function residentWhileHolding(
  { agent, order, resident }: Way,
  flows: number,
): Promise<readonly number[]> {
  await agent.ask({ ...order, op: 'hold', flows })
  const bytes = resident()
  await agent.ask({ op: 'release' })
  if (bytes === null) throw new Error('there is no proxy')
  return [bytes / MIB]
}

/** The same kept GETs once more, looked at. */
async function profile(bench: Bench, ways: Ways): Promise<string> {
  const way = await ways.find(({ name }) => name === AMBIT)?.way.catch(() => undefined)
  if (way?.host === undefined) return 'Profile of a kept GET: not measured: there is no session'
  return profileOf(bench, way.host, async () => (await kept(way))[0] ?? Number.NaN)
}

/** Whether each way keeps its connections to the upstream, and resumes its TLS sessions where it makes new ones. */
async function pooling(ways: Ways, { child }: Upstream): Promise<readonly Column[]> {
  const counted = async (work: () => Promise<unknown>): Promise<Record<string, number>> => {
    const before = await child.ask({})
    await work()
    const after = await child.ask({})
    return Object.fromEntries(
      Object.entries(after).map(([key, now]) => [key, Number(now) - Number(before[key])]),
    )
  }
  const contenders = await Promise.all(
    ways.map(({ name, way }) =>
      attempt(name, async () => {
        const ready = await way
        const measure = async (): Promise<readonly number[]> => {
          const counts = []
          for (const run of [kept, fresh, both]) counts.push(await counted(() => run(ready)))
          const last = counts.at(-1)
          return [
            ...counts.map((one) => percent(one.connections, one.requests)),
            percent(last?.resumed, last?.connections),
          ]
        }
        return { name, measure }
      }),
    ),
  )
  const results = await paired(contenders, 1, 0)
  return [KEPT, FRESH, BOTH, 'of the last resumed'].map((title, index) => ({
    title,
    unit: index < 3 ? 'per 100 requests' : '%',
    series: columnOf(results, index),
  }))
}

const percent = (part = Number.NaN, whole = Number.NaN): number => (100 * part) / whole

const contender = (name: string, way: Promise<Way>, workload: Workload): Promise<Contender> =>
  attempt(name, async () => {
    const ready = await way
    return { name, measure: () => workload.run(ready) }
  })

async function startUpstream(bench: Bench): Promise<Upstream> {
  const load = await loadProgram()
  const dir = join(bench.scratch, 'upstream')
  mkdirSync(dir)
  const { child, greeting } = await LineProcess.start(bench, [load, 'upstream', dir])
  return { child, load, port: Number(greeting.port), ca: join(dir, 'ca.pem') }
}

const WAYS: readonly {
  readonly name: string
  readonly open: (bench: Bench, upstream: Upstream) => Promise<Way>
}[] = [
  { name: DIRECT, open: direct },
  { name: AMBIT, open: (bench, upstream) => throughSession(bench, upstream, 'gate') },
  {
    name: VOLATILE,
    open: async (bench, upstream) =>
      throughSession(bench, upstream, 'volatile', join(await tmpfs(bench), 'ambit-home')),
  },
  { name: SRT, open: throughSrt },
  { name: SRT_PROXY, open: (bench, upstream) => throughProxy(bench, upstream, startSrtProxy) },
  { name: SQUID, open: (bench, upstream) => throughProxy(bench, upstream, startSquid) },
]

async function direct(bench: Bench, { load, port, ca }: Upstream): Promise<Way> {
  const { child } = await LineProcess.start(bench, [load, 'agent'])
  return { agent: child, order: { url: `https://localhost:${port}`, ca }, resident: () => null }
}

/** The client inside `ambit run`, told of no proxy. */
async function throughSession(
  bench: Bench,
  { load, port, ca }: Upstream,
  name: string,
  home?: string,
): Promise<Way> {
  const { run, env } = await product(bench, home)
  const project = join(bench.scratch, `${name}-project`)
  mkdirSync(project)
  copyFileSync(ca, join(bench.scratch, 'upstream-ca.pem'))
  const rule = { host: 'bench.internal', connect: `127.0.0.1:${port}`, ca: './upstream-ca.pem' }
  const profile = writeProfile(bench, name, {
    files: [{ path: '${project}', access: 'read' }],
    network: [{ ...rule, methods: ['GET', 'POST'], paths: ['/*'] }],
    upload: { perRequest: '1GiB', perMinute: '100GiB', perSession: '100GiB' },
  })
  const argv = run(['--profile', profile, '--project', project, '--', load, 'agent'])
  const { child } = await LineProcess.start(bench, argv, { env, cwd: project })
  const supervisor = await sessionProcess(env, project)
  const resident = (): number => residentBytes(supervisor, (line) => line.includes('ambit.cjs'))
  return { agent: child, order: { url: 'https://bench.internal' }, resident, host: supervisor }
}

async function throughSrt(bench: Bench, { load, port, ca }: Upstream): Promise<Way> {
  const argv = [...(await srtCommand(bench, ['localhost'], true)), load, 'agent']
  const { child } = await LineProcess.start(bench, argv, { env: { ...process.env, NODE_EXTRA_CA_CERTS: ca } })
  const resident = (): number =>
    residentBytes(child.pid, (line) => line.includes('cli.js') && !line.includes('bwrap'))
  return { agent: child, order: { url: `https://localhost:${port}`, proxy: 'env' }, resident }
}

async function throughProxy(
  bench: Bench,
  { load, port, ca: upstreamCa }: Upstream,
  start: typeof startSquid,
): Promise<Way> {
  const { url: proxy, ca, pid } = await start(bench, upstreamCa)
  const { child } = await LineProcess.start(bench, [load, 'agent'])
  return {
    agent: child,
    order: { url: `https://localhost:${port}`, ca, proxy },
    resident: () => residentBytes(pid, () => true),
  }
}

function goals(columns: readonly Column[]): readonly Goal[] {
  const times = (title: string, peer: string): number | null => {
    const column = columns.find((one) => one.title === title)
    const [ours, theirs] = column ? [valuesOf(column, AMBIT), valuesOf(column, peer)] : []
    return ours && theirs ? ratio(ours, theirs).p50 : null
  }
  const rates = [KEPT, FRESH, BOTH, UPLOADED]
  const resident = (flows: number): number | null => {
    const column = columns.find(({ title }) => title === `resident at ${flows} open flows`)
    const values = column && valuesOf(column, AMBIT)
    return values ? spread(values).p50 : null
  }
  return [
    ...[SRT, SRT_PROXY].flatMap((peer) =>
      rates.map((title) =>
        goal(`${title}: at least 1.5 × ${peer}`, times(title, peer), (value) => value >= 1.5, ' ×'),
      ),
    ),
    ...rates.map((title) =>
      goal(`${title}: as squid (aim)`, times(title, SQUID), (value) => value >= 1, ' ×'),
    ),
    ...FLOWS.map((flows) =>
      goal(`at most 150 MiB at ${flows} open flows`, resident(flows), (value) => value <= 150, ' MiB'),
    ),
  ]
}
