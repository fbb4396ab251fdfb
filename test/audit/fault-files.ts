/**
 * A disk that dies. `LogFiles` on the real file system, with a fault at step N and, beside it, a model of what would
 * be left after a power cut: only bytes that were synced under names whose directory was synced.
 */
import * as fs from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { type LogFile, type LogFiles, diskFiles } from '../../src/audit/log-files.ts'

class Died extends Error {}

/** What happens at a step: `kill` before it; `torn` in the middle of a write; an errno, once. */
export type Fault = 'kill' | 'torn' | 'ENOSPC' | 'EIO'

interface Inode {
  now: Buffer
  durable: Buffer | null
}

export class FaultFiles implements LogFiles {
  /** Names of the steps so far. */
  readonly steps: string[] = []
  #dead = false
  readonly #root: string
  readonly #at: number
  readonly #fault: Fault
  readonly #names = new Map<string, Inode | 'dir'>()
  readonly #durable = new Map<string, Inode | 'dir'>()

  constructor(root: string, at = Number.POSITIVE_INFINITY, fault: Fault = 'kill') {
    this.#root = root
    this.#at = at
    this.#fault = fault
    this.#adopt(root)
  }

  async mkdir(path: string): Promise<void> {
    this.#step('mkdir', path)
    await diskFiles.mkdir(path)
    this.#names.set(path, 'dir')
  }

  async create(path: string): Promise<LogFile> {
    this.#step('create', path)
    const file = await diskFiles.create(path)
    const inode: Inode = { now: Buffer.alloc(0), durable: null }
    this.#names.set(path, inode)
    return {
      write: async (bytes) => {
        const torn = this.#step('write', path) === 'torn'
        const part = torn ? bytes.subarray(0, bytes.length / 2) : bytes
        await file.write(part)
        inode.now = Buffer.concat([inode.now, part])
        if (torn) this.#die()
      },
      sync: async () => {
        this.#step('fsync', path)
        await file.sync()
        inode.durable = inode.now
      },
      // A dead process closes too; that is no step.
      close: () => file.close(),
    }
  }

  async rename(from: string, to: string): Promise<void> {
    this.#step('rename', to)
    await diskFiles.rename(from, to)
    this.#names.set(to, this.#names.get(from)!)
    this.#names.delete(from)
  }

  async remove(path: string): Promise<void> {
    this.#step('remove', path)
    await diskFiles.remove(path)
    for (const name of this.#names.keys())
      if (name === path || name.startsWith(`${path}/`)) this.#names.delete(name)
  }

  async syncDir(path: string): Promise<void> {
    this.#step('fsync dir', path)
    await diskFiles.syncDir(path)
    for (const name of this.#durable.keys())
      if (dirname(name) === path && !this.#names.has(name)) this.#durable.delete(name)
    for (const [name, inode] of this.#names) if (dirname(name) === path) this.#durable.set(name, inode)
  }

  /**
   * Writes to `dir` what a power cut leaves: durable names and bytes, and of everything else what `lucky` chooses.
   */
  materialize(dir: string, lucky: () => boolean): void {
    const names = new Map(this.#durable)
    for (const [name, inode] of this.#names) if (!names.has(name) && lucky()) names.set(name, inode)
    const sorted = [...names].sort(([a], [b]) => a.length - b.length)
    fs.mkdirSync(dir, { recursive: true })
    for (const [name, inode] of sorted) {
      const target = join(dir, relative(this.#root, name))
      if (!fs.existsSync(dirname(target))) continue
      if (inode === 'dir') fs.mkdirSync(target, { recursive: true })
      else
        fs.writeFileSync(
          target,
          lucky() ? inode.now : (inode.durable ?? inode.now.subarray(0, inode.now.length / 3)),
        )
    }
  }

  #step(kind: string, path: string): Fault | null {
    if (this.#dead) throw new Died('the process is dead')
    this.steps.push(`${kind} ${relative(this.#root, path)}`)
    if (this.steps.length !== this.#at) return null
    if (this.#fault === 'torn' && kind === 'write') return 'torn'
    if (this.#fault === 'kill' || this.#fault === 'torn') this.#die()
    throw Object.assign(new Error(`${this.#fault}: at ${kind}`), { code: this.#fault })
  }

  #die(): never {
    this.#dead = true
    throw new Died('killed here')
  }

  /** What is there when the process starts is durable. */
  #adopt(path: string): void {
    if (!fs.existsSync(path)) return
    for (const entry of fs.readdirSync(path, { withFileTypes: true })) {
      const name = join(path, entry.name)
      const bytes = entry.isDirectory() ? null : fs.readFileSync(name)
      const inode: Inode | 'dir' = bytes ? { now: bytes, durable: bytes } : 'dir'
      this.#names.set(name, inode)
      this.#durable.set(name, inode)
      if (entry.isDirectory()) this.#adopt(name)
    }
  }
}
