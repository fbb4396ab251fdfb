/** What an agent does in each runtime: files through the view, files without it, and the network. */
import { ownCopy, type Place } from './runtimes-places.ts'

const CREATED = 100
const UPLOAD = 4_000_000

export interface Workload {
  readonly title: string
  readonly unit: string
  readonly run: (place: Place, rg: string) => Promise<number>
}

export const STATUS_TITLE = 'git status'
export const SEARCH = 'rg -c foo'
export const CREATE = `create ${CREATED}`

const STATUS = ['/usr/bin/git', '-c', 'safe.directory=*', 'status', '--porcelain']

const ms = async ({ agent }: Place, order: object): Promise<number> =>
  (await agent.number({ ...order }, 'seconds')) * 1000

const status = (place: Place, dir: string): Promise<number> => ms(place, { op: 'exec', argv: STATUS, dir })
const create = (place: Place, dir: string): Promise<number> =>
  ms(place, { op: 'create', dir, files: CREATED })

export const SEEN_FILES: readonly Workload[] = [
  { title: STATUS_TITLE, unit: 'ms', run: (place) => status(place, place.tree) },
  {
    title: SEARCH,
    unit: 'ms',
    run: (place, rg) => ms(place, { op: 'exec', argv: [place.rg ?? rg, '-c', 'foo'], dir: place.tree }),
  },
  { title: CREATE, unit: 'ms', run: (place) => create(place, place.dir) },
]

/** In the runtime's own memory: what the work costs there without a view. */
const OWN_FILES: readonly Workload[] = [
  { title: `${STATUS_TITLE}, /tmp`, unit: 'ms', run: ownStatus },
  { title: `${CREATE}, /tmp`, unit: 'ms', run: (place) => create(place, '/tmp') },
]

export const FILES: readonly Workload[] = [...SEEN_FILES, ...OWN_FILES]

export const NETWORK: readonly Workload[] = [
  {
    title: 'GET, kept, c=2',
    unit: 'req/s',
    run: (place) => rate(place, { op: 'get', clients: 2, seconds: 0.5 }),
  },
  {
    title: `POST ${UPLOAD / 1e6} MB`,
    unit: 'MB/s',
    run: (place) => rate(place, { op: 'post', bytes: UPLOAD }),
  },
]

async function ownStatus(place: Place): Promise<number> {
  const copy = ownCopy(place.tree)
  const once = `test -d ${copy} || cp -a ${place.tree} ${copy}`
  await place.agent.ask({ op: 'exec', argv: ['/bin/sh', '-c', once], dir: '/' })
  return await status(place, copy)
}

function rate({ agent, order }: Place, more: object): Promise<number> {
  return agent.number({ ...order, ...more }, 'rate')
}
