/** Run by protocol.test.ts in a namespace of its own, where the view is mounted: `startView` as a session uses it. */
import { closeSync } from 'node:fs'
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { startView } from '../../src/view/view.ts'
import type { ViewSpec } from '../../src/view/view-spec.ts'

const [dir = '', fuse = ''] = process.argv.slice(2)
const spec = JSON.parse(await readFile(join(dir, 'spec.json'), 'utf8')) as ViewSpec
const inside: ViewSpec = { ...spec, owner: { hostUid: 0, hostGid: 0, uid: 0, gid: 0 } }
const view = await startView({ spec: inside, specPath: join(dir, 'started.json'), fuse: Number(fuse) })
closeSync(Number(fuse))
await writeFile(join(dir, 'mount/0/new'), 'content')
const listing = await readdir(join(dir, 'mount/0'))
const refused = await writeFile(join(dir, 'mount/0/.env'), 'x').then(
  () => 'ok',
  (error: NodeJS.ErrnoException) => error.code,
)
const stats = await view.stats()
await view.stop()
const broken = await startView({
  spec: { ...inside, roots: [{ ...(inside.roots[0] as ViewSpec['roots'][0]), path: join(dir, 'nowhere') }] },
  specPath: join(dir, 'broken.json'),
  fuse: 0,
}).catch((error: { code: string; why: string }) => [error.code, error.why])
process.stdout.write(JSON.stringify({ listing, refused, stats, exited: await view.exited, broken }))
