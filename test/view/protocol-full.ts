/** Run by protocol.test.ts like protocol-session.ts: the journal lies where there is no space, and the view ends. */
import { spawnSync } from 'node:child_process'
import { closeSync, writeFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { startView } from '../../src/view/view.ts'
import type { ViewSpec } from '../../src/view/view-spec.ts'

const [dir = '', fuse = '', how = ''] = process.argv.slice(2)
const spec = JSON.parse(await readFile(join(dir, 'spec.json'), 'utf8')) as ViewSpec
const owner = { hostUid: 0, hostGid: 0, uid: 0, gid: 0 }
const view = await startView({
  spec: { ...spec, owner, journal: join(dir, 'tiny/view.wal') },
  specPath: join(dir, 'started.json'),
  fuse: Number(fuse),
})
closeSync(Number(fuse))
let refused = ''
for (let n = 0; refused === '' && n < 10_000; n++)
  try {
    writeFileSync(join(dir, `mount/0/${n}`), '')
  } catch (error) {
    refused = (error as NodeJS.ErrnoException).code ?? ''
  }
// At once: whoever notices the journal's death may not have had its turn.
if (how === 'stop') void view.stop()
else spawnSync('umount', ['-l', join(dir, 'mount')])
process.stdout.write(JSON.stringify({ refused, exited: await view.exited }))
