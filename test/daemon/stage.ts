/** A daemon of its own for a test, its sessions, and raw sockets to it. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import * as fs from 'node:fs'
import { type Socket, connect } from 'node:net'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { Journal } from '../../src/audit/journal.ts'
import { readEvents } from '../../src/audit/read.ts'
import { type DaemonClient, connectDaemon } from '../../src/daemon/client.ts'
import { encodeFrame } from '../../src/daemon/frames.ts'
import { loadRecord } from '../../src/daemon/records.ts'
import { type Paths, daemonSocket, journalDir, logDir, sessionDir } from '../../src/lib/paths.ts'
import { SAMPLES } from '../audit/samples.ts'
import { tempDir } from '../audit/temp.ts'

const { t: _t, m: _m, ...START } = SAMPLES[0] as Extract<(typeof SAMPLES)[number], { k: 'session.start' }>

export class Stage {
  readonly paths: Paths
  readonly #clients: DaemonClient[] = []

  constructor(t: TestContext) {
    // Before tempDir, whose own end would take away the socket by which the daemon is found.
    t.after(() => this.#end())
    const dir = tempDir(t)
    this.paths = { config: join(dir, 'config'), state: join(dir, 'state'), run: join(dir, 'run') }
  }

  async connect(): Promise<DaemonClient> {
    const client = await connectDaemon(this.paths)
    this.#clients.push(client)
    return client
  }

  /** A session directory with a journal that has begun. */
  session(id: string): Journal {
    fs.mkdirSync(journalDir(this.paths, id), { recursive: true, mode: 0o700 })
    const journal = Journal.open(join(journalDir(this.paths, id), 'run.wal'))
    journal.append(START)
    return journal
  }

  openArgs(id: string, pid = process.pid): Record<string, unknown> {
    const facts = { profile: 'writer', runtime: 'os-sandbox', agent: 'a', project: '/p', startedAt: 1 }
    return { id, dir: sessionDir(this.paths, id), pid, ...facts }
  }

  /** What the log says of a session, as kinds. */
  kinds(id: string): string[] {
    return [...readEvents(logDir(this.paths), { session: id })].map(({ kind }) => kind)
  }

  async state(id: string, wanted: string): Promise<void> {
    const end = Date.now() + 30_000
    while (loadRecord(this.paths, id)?.state !== wanted) {
      if (Date.now() > end) throw new Error(`session is ${loadRecord(this.paths, id)?.state}, not ${wanted}`)
      await sleep(20)
    }
  }

  /** A socket that says whatever it is told. */
  async raw(): Promise<Socket> {
    const socket = connect(daemonSocket(this.paths))
    await once(socket, 'connect')
    return socket
  }

  async #end(): Promise<void> {
    for (const client of this.#clients) client.close()
    // A starter that lost the race late may take the place of the one that is ended here.
    for (let round = 0; round < 3; round++) {
      const pid = await this.daemonPid()
      if (pid !== null) process.kill(pid, 'SIGKILL')
      if (pid !== null) await sleep(100)
    }
  }

  /** The daemon's process, if one answers. */
  async daemonPid(): Promise<number | null> {
    try {
      const client = await connectDaemon(this.paths, { start: false })
      client.close()
      return client.daemon.pid
    } catch {
      return null
    }
  }
}

export const HELLO = encodeFrame({ id: 1, op: 'hello', args: { v: 1, version: 'test' } })

/** A process that opens session `id` and then waits to be killed: `ambit run` as the daemon sees it. */
export async function startRun(stage: Stage, id: string): Promise<ChildProcess> {
  const client = import.meta.resolve('../../src/daemon/client.ts')
  const args = JSON.stringify(stage.openArgs(id))
  const script = `
    import { connectDaemon } from '${client}'
    const daemon = await connectDaemon(${JSON.stringify(stage.paths)})
    daemon.onLost(() => console.log('lost'))
    await daemon.call('session.open', { ...${args}, pid: process.pid })
    setInterval(() => undefined, 60_000) // A run does not end because the daemon hangs up.
    console.log('open')`
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  await once(child.stdout!, 'data')
  return child
}
