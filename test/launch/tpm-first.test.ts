/** What `ambit-launch` relies on: QEMU makes no machine, and reads no kernel, before its TPM has answered. */
import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import type { Socket } from 'node:net'
import { test } from 'node:test'
import { setTimeout as pause } from 'node:timers/promises'
import { lookForTool } from '../../src/runtime/tools.ts'

const NO_KERNEL = '/nonexistent/kernel'
const TPM = ['-chardev', 'socket,id=tpm,fd=3', '-tpmdev', 'emulator,id=tpm,chardev=tpm']
const DEVICE = ['-device', 'tpm-tis,tpmdev=tpm']

const qemu = process.arch === 'x64' ? lookForTool('qemu-system-x86_64') : null
const skip = qemu ? false : 'qemu-system-x86_64 is not installed'

test('QEMU waits for its TPM before it reads the kernel', { skip }, async () => {
  const waiting = start([...TPM, ...DEVICE])
  try {
    await once(waiting.child.stdio[3] as Socket, 'data')
    await pause(300)
    assert.equal(waiting.child.exitCode, null)
    assert.equal(waiting.said(), '')
  } finally {
    waiting.child.kill('SIGKILL')
  }
  const free = start([])
  await once(free.child, 'close')
  assert.match(free.said(), new RegExp(NO_KERNEL))
})

function start(more: readonly string[]): { child: ChildProcess; said: () => string } {
  const machine = ['-M', 'microvm', '-accel', 'tcg', '-nodefaults', '-display', 'none', '-kernel', NO_KERNEL]
  const child = spawn(qemu ?? '', [...machine, ...more], { stdio: ['ignore', 'ignore', 'pipe', 'pipe'] })
  let said = ''
  child.stderr?.on('data', (text: Buffer) => (said += text.toString()))
  return { child, said: () => said }
}
