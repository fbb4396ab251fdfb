/** A session's spec as a machine can follow it. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { CA_BUNDLE } from '../../src/runtime/environment.ts'
import type { LaunchMount, LaunchSpec } from '../../src/runtime/launch-spec.ts'
import { throughView } from '../../src/runtime/microvm.ts'

const through = (mounts: readonly LaunchMount[]) => throughView({ mounts } as LaunchSpec, 3)

test('a bind is a root of the view, which may be written to where the bind may', () => {
  const bind = (target: string, write: boolean): LaunchMount => ({
    kind: 'bind',
    source: `/from${target}`,
    target,
    write,
  })
  const { spec, shown } = through([bind('/home/ada', true), bind('/opt/tool', false)])
  assert.deepEqual(spec.mounts, [
    { kind: 'view', root: 3, target: '/home/ada' },
    { kind: 'view', root: 4, target: '/opt/tool' },
  ])
  assert.deepEqual(shown, [
    { index: 3, source: '/from/home/ada', target: '/home/ada', write: true },
    { index: 4, source: '/from/opt/tool', target: '/opt/tool', write: false },
  ])
})

test("the session's /etc stays a bind, but its bundle of roots comes through the view, read-only", () => {
  const etc: LaunchMount = { kind: 'bind', source: '/run/etc', target: '/etc', write: false }
  const { spec, shown } = through([etc])
  assert.deepEqual(spec.mounts, [etc, { kind: 'view', root: 3, target: CA_BUNDLE }])
  const source = '/run/etc/ssl/certs/ca-certificates.crt'
  assert.deepEqual(shown, [{ index: 3, source, target: CA_BUNDLE, write: false }])
})
