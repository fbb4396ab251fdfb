/** What lies on the disk beside what the record of a view that was killed says. */
import { createHash } from 'node:crypto'
import { lstatSync, readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { join, relative } from 'node:path'
import type { Fact } from '../../src/audit/fact.ts'

/** One object beneath a root: what it is, and what must be on record when that changes. */
interface Thing {
  readonly kind: string
  readonly content: string | null
  readonly mode: number | null
  readonly written: boolean
  readonly changed: boolean
}
export type Tree = ReadonlyMap<string, Thing>

/** Everything beneath `root`, by path. Links are not followed. */
export function lookAt(root: string, beneath = ''): Map<string, Thing> {
  const found = new Map<string, Thing>()
  for (const entry of readdirSync(join(root, beneath), { withFileTypes: true })) {
    const name = join(beneath, entry.name)
    const path = join(root, name)
    const [kind, content] = entry.isFile()
      ? ['file', createHash('sha256').update(readFileSync(path)).digest('hex')]
      : entry.isSymbolicLink()
        ? ['link', readlinkSync(path)]
        : [entry.isDirectory() ? 'dir' : 'other', null]
    found.set(name, { kind, content, mode: lstatSync(path).mode, written: false, changed: false })
    if (entry.isDirectory()) for (const [inner, thing] of lookAt(root, name)) found.set(inner, thing)
  }
  return found
}

type Change = Extract<Fact, { k: 'file.create' | 'file.delete' | 'file.rename' }>

/** The facts without those that are on record as failed. */
export function happened(facts: readonly Fact[]): Fact[] {
  const kept: Fact[] = []
  for (const fact of facts) {
    if (fact.k !== 'file.failed') kept.push(fact)
    else {
      const at = kept.findLastIndex(
        (one) => one.k === `file.${fact.op}` && 'path' in one && one.path === fact.path,
      )
      if (at < 0) throw new Error(`failed, and never announced: ${fact.path}`)
      kept.splice(at, 1)
    }
  }
  return kept
}

/** A swap is two facts of one moment. */
const isSwap = (one: Fact | undefined, other: Fact | undefined): boolean =>
  one?.k === 'file.rename' &&
  other?.k === 'file.rename' &&
  one.path === other.to &&
  one.to === other.path &&
  one.m === other.m

/** The tree that `facts` make of `before`. */
function replay(before: Tree, facts: readonly Fact[], root: string): Tree {
  const tree = new Map(before)
  const at = (path: string): string => relative(root, path)
  const mark = (path: string, what: Partial<Thing>): void => {
    const thing = tree.get(path)
    if (thing) tree.set(path, { ...thing, ...what })
  }
  const take = (path: string): Map<string, Thing> => {
    const beneath = [...tree].filter(([name]) => name === path || name.startsWith(`${path}/`))
    for (const [name] of beneath) tree.delete(name)
    return new Map(beneath.map(([name, thing]) => [name.slice(path.length), thing]))
  }
  const put = (path: string, things: Map<string, Thing>): void => {
    for (const [name, thing] of things) tree.set(path + name, thing)
  }
  for (let n = 0; n < facts.length; n++) {
    const fact = facts[n] as Fact
    if (fact.k === 'file.create')
      tree.set(at(fact.path), { kind: fact.type, content: null, mode: null, written: true, changed: true })
    if (fact.k === 'file.delete') tree.delete(at(fact.path))
    if (fact.k === 'file.attributes') mark(at(fact.path), { changed: true })
    if (fact.k === 'file.write' || (fact.k === 'file.open' && fact.mode === 'write'))
      mark(at(fact.path), { written: true })
    if (fact.k !== 'file.rename') continue
    const next = facts[n + 1]
    const [from, to] = [at(fact.path), at(fact.to)]
    const moved = take(from)
    if (isSwap(fact, next)) {
      put(from, take(to))
      n++
    } else take(to)
    put(to, moved)
  }
  return tree
}

/** What is on the disk and not as the record has it; empty when all is explained. */
function unexplained(disk: Tree, said: Tree): string[] {
  const wrong: string[] = []
  for (const name of new Set([...disk.keys(), ...said.keys()])) {
    const [is, was] = [disk.get(name), said.get(name)]
    if (!is || !was)
      wrong.push(`${name}: ${is ? 'there' : 'not there'}, by the record ${was ? 'there' : 'not there'}`)
    else if (is.kind !== was.kind) wrong.push(`${name}: a ${is.kind}, by the record a ${was.kind}`)
    else if (!was.written && is.content !== was.content) wrong.push(`${name}: other content`)
    else if (!was.changed && is.mode !== was.mode) wrong.push(`${name}: another mode`)
  }
  return wrong
}

const changes = (fact: Fact): fact is Change => ['file.create', 'file.delete', 'file.rename'].includes(fact.k)

/**
 * What the session did beneath `root` that the record does not have. The last change of each of those who worked at
 * once, each in a directory of its own (the first name of a path), may stand on record and not have happened.
 */
export function missing(before: Tree, facts: readonly Fact[], root: string): string[] {
  const disk = lookAt(root)
  const of = (path: string): string => relative(root, path).split('/')[0] ?? ''
  const own = (tree: Tree, worker: string): Tree =>
    new Map([...tree].filter(([name]) => name.split('/')[0] === worker))
  const workers = new Set([...disk.keys(), ...before.keys()].map((name) => name.split('/')[0] as string))
  return [...workers].flatMap((worker) => {
    const his = happened(facts.filter((fact) => 'path' in fact && of(fact.path) === worker))
    const last = his.findLastIndex(changes)
    const two = isSwap(his[last - 1], his[last])
    const fewer = his.toSpliced(two ? last - 1 : last, two ? 2 : 1)
    const [whole, without] = [his, last < 0 ? his : fewer].map((list) =>
      unexplained(own(disk, worker), own(replay(before, list, root), worker)),
    )
    return without?.length === 0 ? [] : (whole ?? [])
  })
}
