import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { test } from 'node:test'
import { promisify } from 'node:util'

/** Opens the sockets as the launcher does, and becomes the gate. */
const OPEN = `
import os, socket, sys
kinds = [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_STREAM, socket.SOCK_STREAM]
fds = []
for kind in kinds:
    s = socket.socket(socket.AF_INET, kind)
    s.bind(("127.0.0.1", 0))
    if kind == socket.SOCK_STREAM: s.listen(64)
    os.set_inheritable(s.fileno(), True)
    fds.append(str(s.detach()))
os.execv(sys.argv[1], [sys.argv[1], sys.argv[2]] + fds)
`

test('serves on descriptors that another process opened, and asks the kernel where connections were going', async () => {
  const child = join(import.meta.dirname, 'fd-child.ts')
  const { stdout } = await promisify(execFile)('python3', ['-c', OPEN, process.execPath, child], {
    timeout: 20_000,
  })
  const seen = JSON.parse(stdout) as { ports: Record<string, number>; addresses: string[]; answer: string }
  assert.ok(Object.values(seen.ports).every((port) => port > 0))
  assert.match(seen.addresses[0] ?? '', /^21\./)
  assert.match(seen.answer, /^HTTP\/1\.1 403 [^]*network\.port-not-allowed/)
})
