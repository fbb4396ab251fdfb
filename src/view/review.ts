/**
 * What a session changed under review: listing, diff, apply, drop. `ambit-view review` does the reading and writing:
 * the upper layer is the agent's, and Node cannot open beneath a directory without following links (F-04).
 *
 * Paths are relative to their root and carry the agent's bytes as text: `\xNN` for what is not UTF-8, `\\` for a
 * backslash. They go through `printable` before a person sees them.
 */
import { isUtf8 } from 'node:buffer'
import { spawn } from 'node:child_process'
import { readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { createTwoFilesPatch } from 'diff'
import { AmbitError } from '../lib/errors.ts'
import { nativeBinary } from '../lib/paths.ts'
import { printable } from '../lib/printable.ts'
import { isExecutableConfig } from './executable-config.ts'
import type { ViewSpec } from './view-spec.ts'

/** One root's upper layer. */
export interface ReviewLayer {
  readonly root: string
  readonly upper: string
  /** Who owns what is written; null: the caller. */
  readonly owner: { readonly uid: number; readonly gid: number } | null
}

type ObjectType = 'file' | 'dir' | 'link' | 'other'

/** The host's object when the agent first changed it. */
interface Base {
  readonly type: ObjectType
  readonly size: number
  readonly mode: number
  readonly mtime: string
  readonly sha256: string | null
}

export interface Change {
  /** The layer's root. */
  readonly root: string
  /** Relative to the root. */
  readonly path: string
  readonly kind: 'added' | 'modified' | 'deleted' | 'type-changed'
  readonly type: ObjectType
  readonly size: number
  /** Permission bits; null when deleted. */
  readonly mode: number | null
  readonly sha256: string | null
  readonly base: Base | null
  /** The host's object is no longer what the agent started from: `applyChanges` will leave it alone. */
  readonly conflict: boolean
  /** A program outside the session runs or obeys this file. */
  readonly executableConfig: boolean
  /** Of a link that was added or changed. */
  readonly target: string | null
  /** The link leads out of the root: what opens it outside reads or writes there. */
  readonly leadsOut: boolean
}

/** True for a change that a person should look at before all others. */
export const isRisky = (change: Pick<Change, 'executableConfig' | 'leadsOut'>): boolean =>
  change.executableConfig || change.leadsOut

export interface Applied {
  readonly root: string
  readonly path: string
  readonly state: 'applied' | 'conflict' | 'failed'
  readonly why: string | null
  /** Of what was written; null for deletions and directories. */
  readonly sha256: string | null
}

/** The layers of a session, from the spec that its view was given. */
export function reviewLayers(spec: ViewSpec): ReviewLayer[] {
  const { hostUid: uid, hostGid: gid } = spec.owner
  const owner = process.getuid?.() === 0 ? { uid, gid } : null
  return spec.roots.flatMap(({ path, access, review, upper }) =>
    upper !== null && access !== 'read' && (access === 'review' || review.length > 0)
      ? [{ root: path, upper, owner }]
      : [],
  )
}

/** All changes; those to executable configuration and links outward first, then by path. */
export async function listChanges(layers: readonly ReviewLayer[]): Promise<Change[]> {
  const lists = await Promise.all(
    layers.filter(isUsed).map(async (layer) => {
      const { changes } = await ask<{ changes: Omit<Change, 'root' | 'executableConfig'>[] }>(
        layer,
        'list',
        null,
      )
      return changes.map((change) => ({
        ...change,
        root: layer.root,
        executableConfig: isExecutableConfig(change.path, change.type),
      }))
    }),
  )
  const key = (change: Change) => `${isRisky(change) ? 0 : 1}${join(change.root, change.path)}`
  return lists.flat().sort((a, b) => (key(a) < key(b) ? -1 : 1))
}

/** False when nothing was ever put into the layer: no object, no mark (native/view/src/overlay.rs). */
function isUsed({ upper }: ReviewLayer): boolean {
  try {
    return (
      statSync(join(upper, 'meta', 'changes.jsonl')).size > 0 || readdirSync(join(upper, 'files')).length > 0
    )
  } catch {
    return true // ambit-view says what is wrong with it
  }
}

interface Content {
  readonly type: ObjectType
  readonly hex: string
  /** Of the whole object; `hex` holds its beginning. */
  readonly size: number
}

/** A unified diff of `changes`, as `listChanges` gives them, safe to show. Binary files and cuts are said. */
export async function diffChanges(
  layers: readonly ReviewLayer[],
  changes: readonly Change[],
): Promise<string> {
  const parts: string[] = []
  for (const change of changes) {
    const layer = layers.find(({ root }) => root === change.root)
    if (!layer) continue
    const { files } = await ask<{ files: { before: Content | null; after: Content | null }[] }>(
      layer,
      'show',
      [change.path],
    )
    parts.push(diffOne(change, files[0]?.before ?? null, files[0]?.after ?? null))
  }
  return parts.join('')
}

function diffOne(change: Change, before: Content | null, after: Content | null): string {
  const name = printable(join(change.root, change.path))
  const notes = [
    ...(change.executableConfig ? ['programs outside the session run or obey this file'] : []),
    ...(change.leadsOut ? ['leads out of the root'] : []),
    ...(change.conflict ? ['changed outside meanwhile: will not be applied'] : []),
    ...(change.base && change.mode !== null && change.mode !== change.base.mode
      ? [`mode ${change.base.mode.toString(8)} to ${change.mode.toString(8)}`]
      : []),
  ]
  const head = `${change.kind} ${change.type} ${name}${notes.length > 0 ? ` (${notes.join('; ')})` : ''}\n`
  if (change.type === 'dir') return head
  const [old, now] = [text(before), text(after)]
  if (old === null || now === null) return `${head}binary content, ${change.size} bytes\n`
  const end = [before, after].some(isCut) ? '(only the beginning was compared; the rest is not shown)\n' : ''
  if (old === now) return head + end
  const sides = [before ? '' : 'absent', after ? '' : 'absent'] as const
  const patch =
    createTwoFilesPatch(name, name, old, now, ...sides, { maxEditLength: MAX_EDITS }) ?? wholePatch(old, now)
  return (
    head +
    patch
      .split('\n')
      .map((line) => showable(line))
      .join('\n') +
    end
  )
}

/** Lines that two versions may differ by; to look for more would take the agent's time to choose, not ours. */
const MAX_EDITS = 2000

/** Everything old, then everything new: for versions that have little in common. */
const wholePatch = (old: string, now: string): string =>
  [['-', old] as const, ['+', now] as const]
    .flatMap(([sign, side]) =>
      side === ''
        ? []
        : side
            .replace(/\n$/, '')
            .split('\n')
            .map((line) => `${sign}${line}`),
    )
    .join('\n')
    .concat('\n')

const isCut = (content: Content | null): boolean => content !== null && content.hex.length / 2 < content.size

/** Null when the content is not text. */
function text(content: Content | null): string | null {
  if (content === null) return ''
  const bytes = Buffer.from(content.hex, 'hex')
  if (bytes.includes(0)) return null
  // Two texts that differ must look different, so what is not UTF-8 is shown byte by byte.
  const shown = bytes.toString(isUtf8(bytes) || isCut(content) ? 'utf8' : 'latin1')
  return content.type === 'link' ? `link to ${shown}\n` : shown
}

/** Tabs are text in a diff; everything else that `printable` escapes is not. */
const showable = (line: string) =>
  line
    .split('\t')
    .map((part) => printable(part, 2000))
    .join('\t')

/**
 * Brings changes onto the host, three-way: what changed outside since is a conflict and stays as it is. `paths` picks
 * by root and path; omitted, everything. What was applied leaves the upper layer.
 */
export async function applyChanges(
  layers: readonly ReviewLayer[],
  paths?: readonly Pick<Change, 'root' | 'path'>[],
): Promise<Applied[]> {
  const results: Applied[] = []
  for (const layer of layers) {
    const picked = pick(layer, paths)
    if (picked?.length === 0) continue
    const answer = await ask<{ results: Omit<Applied, 'root'>[] }>(layer, 'apply', picked)
    results.push(...answer.results.map((result) => ({ ...result, root: layer.root })))
  }
  return results
}

/** Forgets changes; returns what was dropped. */
export async function dropChanges(
  layers: readonly ReviewLayer[],
  paths?: readonly Pick<Change, 'root' | 'path'>[],
): Promise<Pick<Change, 'root' | 'path'>[]> {
  const dropped: Pick<Change, 'root' | 'path'>[] = []
  for (const layer of layers) {
    const picked = pick(layer, paths)
    if (picked?.length === 0) continue
    const answer = await ask<{ dropped: string[] }>(layer, 'drop', picked)
    dropped.push(...answer.dropped.map((path) => ({ root: layer.root, path })))
  }
  return dropped
}

const pick = (
  layer: ReviewLayer,
  paths: readonly Pick<Change, 'root' | 'path'>[] | undefined,
): string[] | null => (paths ? paths.filter(({ root }) => root === layer.root).map(({ path }) => path) : null)

type Op = 'list' | 'show' | 'apply' | 'drop'

async function ask<T>(layer: ReviewLayer, op: Op, paths: readonly string[] | null): Promise<T> {
  const child = spawn(nativeBinary('ambit-view'), ['review', '-'], {
    stdio: ['pipe', 'pipe', 'pipe'],
    env: {},
  })
  const ended = new Promise<number | null>((resolve) => {
    child.once('error', () => resolve(127))
    child.once('close', (code) => resolve(code))
  })
  child.stdin.on('error', () => {})
  child.stdin.end(JSON.stringify({ version: 1, op, ...layer, paths }))
  const [out, error] = await Promise.all([collect(child.stdout), collect(child.stderr)])
  if ((await ended) !== 0)
    throw new AmbitError(
      'ERR_RUNTIME_FAILED',
      `cannot ${op} the session's changes`,
      printable(error.trim()) || 'ambit-view failed',
    )
  return JSON.parse(out) as T
}

async function collect(stream: NodeJS.ReadableStream): Promise<string> {
  const chunks: Buffer[] = []
  for await (const chunk of stream) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks).toString()
}
