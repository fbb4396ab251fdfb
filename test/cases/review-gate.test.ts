/** Holes that a review of the gate's side of the product found. */
import assert from 'node:assert/strict'
import { chmodSync, existsSync, lstatSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { Stage } from '../support/stage.ts'
import { serveHttps } from '../support/upstream.ts'

const stage = new Stage('user', {
  files: { 'a.txt': 'text', 'out/': '' },
  home: { '.bashrc': 'precious\n' },
  spec: { files: [{ path: '${project}', access: 'write' }] },
})
after(() => setTimeout(() => process.exit(), 100).unref())

async function summaryAt(name: string, script: string) {
  const file = join(stage.project, name)
  const args = stage.run(['/bin/sh', '-c', script], stage.profile(), '--summary', file)
  const ran = await stage.ambit(args, { timeout: 30_000 })
  return { ...ran, file }
}

test('F-03: the summary is written where it was asked for', async () => {
  const { code, file, stderr } = await summaryAt('out/plain.json', 'exit 3')
  assert.equal(code, 3, stderr)
  assert.equal(JSON.parse(readFileSync(file, 'utf8')).exit, 3)
})

for (const [what, script] of [
  ['link to a file of the user’s', `ln -s ${stage.home}/.bashrc sum.json`],
  ['dangling link', `ln -s ${stage.outside}/planted sum.json`],
  ['pipe', 'mkfifo sum.json || ln -s /dev/null sum.json'],
  ['forged file', `echo '{"outcome":"forged"}' > sum.json; chmod 000 sum.json`],
] as const) {
  test(`F-03: the summary replaces a ${what} that the agent planted`, async () => {
    const { code, file, stderr } = await summaryAt('sum.json', `rm -f sum.json; ${script}; exit 4`)
    assert.equal(code, 4, stderr)
    assert.equal(readFileSync(join(stage.home, '.bashrc'), 'utf8'), 'precious\n')
    assert.ok(!existsSync(join(stage.outside, 'planted')))
    assert.ok(lstatSync(file).isFile())
    assert.equal(JSON.parse(readFileSync(file, 'utf8')).outcome, 'ended')
  })
}

test('F-03: a directory that the agent replaced is an error, not a summary of its making', async () => {
  mkdirSync(join(stage.project, 'swap'))
  stage.own()
  const script = `mv swap moved; mkdir swap; echo '{"outcome":"forged"}' > swap/sum.json; exit 5`
  const { code, stderr } = await summaryAt('swap/sum.json', script)
  assert.equal(code, 126, stderr)
  assert.match(stderr, /its directory was replaced during the session/)
})

for (const clearance of ['internal', 'public'] as const) {
  const status = clearance === 'internal' ? '200' : '403'
  test(`a plain mount of internal files and a destination cleared for ${clearance}: ${status}`, async () => {
    const upstream = await serveHttps(['pinned.test'])
    const ca = join(stage.root, 'upstream.pem')
    writeFileSync(ca, upstream.ca)
    chmodSync(ca, 0o644)
    const profile = stage.profile({
      files: [{ path: '${project}', access: 'read', via: 'mount' }],
      network: [{ host: 'pinned.test', connect: `127.0.0.1:${upstream.port}`, ca, clearance }],
    })
    const script = `cat a.txt | curl -sS -o /dev/null -w '%{http_code}' --data-binary @- https://pinned.test/`
    const ran = await stage.ambit(stage.run(['/bin/sh', '-c', script], profile), { timeout: 30_000 })
    assert.equal(ran.stdout, status, ran.stderr)
    assert.equal(upstream.requests.length, clearance === 'internal' ? 1 : 0)
    upstream.close()
  })
}
