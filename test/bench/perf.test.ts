/** What perf's stacks are counted as. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { groupOf } from '../../bench/figures/gate-profile.ts'
import { samplesOf, shares } from '../../bench/perf.ts'

const SCRIPT = `    101 
\tffffffff8157a596 tcp_sendmsg ([kernel.kallsyms])
\tffffffff8157a111 __x64_sys_sendto ([kernel.kallsyms])
\t          138630 write (/usr/lib/libc.so.6)

    101 
\t          16dd8f6 Builtins_JSONParse (/opt/node)

      0 
\tffffffff8157a596 pv_native_safe_halt ([kernel.kallsyms])
`.split('\n')

test('a sample is its process and its stack, innermost frame first', async () => {
  const samples = await samplesOf(SCRIPT)
  assert.deepEqual(
    samples.map(({ pid, stack }) => [pid, stack.length]),
    [
      [101, 3],
      [101, 1],
      [0, 1],
    ],
  )
  assert.deepEqual(samples[1]?.stack, [{ symbol: 'Builtins_JSONParse', object: '/opt/node' }])
})

test('a sample counts once, by what the innermost frame belongs to', async () => {
  const samples = await samplesOf(SCRIPT)
  assert.deepEqual(samples.map(groupOf), ['kernel: sockets', 'JSON', 'kernel: the rest'])
  const at = (symbol: string, object: string) => groupOf({ pid: 1, stack: [{ symbol, object }] })
  assert.equal(at('ring::aead::aes_gcm::seal', '/b/native.node'), 'crypto (addon)')
  assert.equal(at('rustls::conn::Reader::read', '/b/native.node'), 'TLS and bytes (addon)')
  assert.equal(at('ambit_node::record_queue::RecordQueue::add', '/b/native.node'), 'records (addon)')
  assert.equal(at('llhttp__internal__run', '/b/node'), 'llhttp')
  assert.equal(at('[unknown]', '/tmp/perf-17.map'), 'compiled JavaScript')
  assert.deepEqual(
    shares(samples, ({ pid }) => String(pid)).map(([name, share]) => [name, Math.round(share)]),
    [
      ['101', 67],
      ['0', 33],
    ],
  )
})
