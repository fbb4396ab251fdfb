/** @anthropic-ai/sandbox-runtime: its command, and its TLS-terminating proxy alone. */
import { writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { debianProgram, npmPeer } from '../cache.ts'
import type { Bench } from '../figure.ts'
import { LineProcess } from '../line-process.ts'
import type { Proxy } from './squid.ts'

/** Argument list of `srt --settings … --`, to which the command is added. */
export async function srtCommand(
  bench: Bench,
  domains: readonly string[],
  tlsTerminate: boolean,
): Promise<readonly string[]> {
  const dir = await npmPeer('@anthropic-ai/sandbox-runtime')
  const settings = join(bench.scratch, `srt-${tlsTerminate ? 'tls' : 'plain'}.json`)
  writeFileSync(
    settings,
    JSON.stringify({
      network: { allowedDomains: domains, deniedDomains: [], ...(tlsTerminate ? { tlsTerminate: {} } : {}) },
      filesystem: { denyRead: [], allowWrite: ['.'], denyWrite: [] },
    }),
  )
  await putOnPath('rg', 'ripgrep')
  await putOnPath('socat', 'socat')
  return [process.execPath, join(dir, 'dist/cli.js'), '--settings', settings, '--']
}

/** srt looks its helpers up on PATH. */
async function putOnPath(program: string, pkg: string): Promise<void> {
  const dir = dirname(await debianProgram(program, pkg))
  if (!process.env.PATH?.split(':').includes(dir)) process.env.PATH = `${process.env.PATH}:${dir}`
}

/** Starts srt's proxy alone, for upstreams under `upstreamCa`. */
export async function startSrtProxy(bench: Bench, upstreamCa: string): Promise<Proxy> {
  const dir = await npmPeer('@anthropic-ai/sandbox-runtime')
  const argv = [process.execPath, join(import.meta.dirname, 'srt-proxy.ts'), dir]
  const env = { ...process.env, NODE_EXTRA_CA_CERTS: upstreamCa }
  const { child, greeting } = await LineProcess.start(bench, argv, { env })
  return { url: `http://127.0.0.1:${Number(greeting.port)}`, ca: String(greeting.ca), pid: child.pid }
}
