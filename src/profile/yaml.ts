/**
 * YAML 1.2 (core schema) with the place of every value, and nothing that makes two readers disagree: no duplicate
 * keys, aliases, merge keys, tags, several documents or keys that are not plain strings.
 */
import {
  isAlias,
  isMap,
  isNode,
  isScalar,
  isSeq,
  LineCounter,
  type Node,
  parseAllDocuments,
  visit,
} from 'yaml'
import { AmbitError, messageOf } from '../lib/errors.ts'
import { printable } from '../lib/printable.ts'

/** A profile is a page; this bounds what a parser is ever given. */
export const MAX_YAML_BYTES = 256 * 1024
const MAX_DEPTH = 32

export type Path = readonly (string | number)[]

export interface YamlDocument {
  readonly value: unknown
  /** `profile.yaml:12:5 network[3].host` for a path of the value; the nearest existing ancestor's line and column. */
  readonly place: (path: Path) => string
  /** The same for the key at the end of `path`, e.g. one that nobody knows. */
  readonly placeOfKey: (path: Path) => string
}

/** Parses `text`; `file` only names it in errors. @throws AmbitError ERR_PROFILE_INVALID */
export function parseYaml(text: string, file: string): YamlDocument {
  const lines = new LineCounter()
  const at = (offset: number): string => {
    const { line, col } = lines.linePos(offset)
    return `${printable(file)}:${line}:${col}`
  }
  const refuse = (offset: number, why: string): AmbitError =>
    new AmbitError('ERR_PROFILE_INVALID', at(offset), why)
  if (Buffer.byteLength(text) > MAX_YAML_BYTES) {
    throw new AmbitError('ERR_PROFILE_INVALID', printable(file), `larger than ${MAX_YAML_BYTES} bytes`)
  }
  const root = parseOne(text, file, lines, refuse)
  refuseOddities(root, refuse)
  const place = (path: Path, end: End): string =>
    [at(offsetOf(root, path, end)), formatPath(path)].filter(Boolean).join(' ')
  return {
    value: toValue(root),
    place: (path) => place(path, 'value'),
    placeOfKey: (path) => place(path, 'key'),
  }
}

function parseOne(
  text: string,
  file: string,
  lines: LineCounter,
  refuse: (offset: number, why: string) => AmbitError,
): Node {
  const documents = parse(text, file, lines)
  const [document, second] = documents
  if (second) throw refuse(second.range[0], 'a second document')
  const problem = document?.errors[0] ?? document?.warnings[0]
  if (problem) throw refuse(problem.pos[0], printable(problem.message))
  if (!document?.contents) throw new AmbitError('ERR_PROFILE_INVALID', printable(file), 'is empty')
  return document.contents
}

function parse(text: string, file: string, lines: LineCounter) {
  try {
    const options = {
      lineCounter: lines,
      version: '1.2',
      schema: 'core',
      uniqueKeys: true,
      prettyErrors: false,
    } as const
    const documents = parseAllDocuments(text, { ...options, merge: false, stringKeys: true })
    return 'empty' in documents ? [] : documents
  } catch (error) {
    // Nesting deep enough to end the parser's stack.
    throw new AmbitError('ERR_PROFILE_INVALID', printable(file), printable(messageOf(error)), undefined, {
      cause: error,
    })
  }
}

function refuseOddities(root: Node, refuse: (offset: number, why: string) => AmbitError): void {
  visit(root, {
    Node(_key, node, ancestors) {
      const offset = node.range?.[0] ?? 0
      if (isAlias(node)) throw refuse(offset, 'an alias: write the value out')
      if (node.anchor) throw refuse(offset, 'an anchor: write the value out')
      if (node.tag && !/^tag:yaml\.org,2002:(?:map|seq|str)$/.test(node.tag)) throw refuse(offset, 'a tag')
      if (ancestors.length > MAX_DEPTH * 2) throw refuse(offset, 'nested too deeply')
    },
    Pair(_key, pair) {
      const key = pair.key
      if (!isScalar(key) || typeof key.value !== 'string')
        throw refuse(isNode(key) ? (key.range?.[0] ?? 0) : 0, 'a key that is not a string')
      if (key.value === '__proto__' || key.value === '<<')
        throw refuse(key.range?.[0] ?? 0, 'a key that means something else')
    },
  })
}

function toValue(root: Node): unknown {
  return (root as { toJSON(): unknown }).toJSON()
}

type End = 'key' | 'value'

/** Offset of the last step of `path`, or of its nearest ancestor that is there. */
function offsetOf(root: Node, path: Path, end: End): number {
  let node = root
  for (const [index, step] of path.entries()) {
    const pair = isMap(node)
      ? node.items.find((item) => isScalar(item.key) && item.key.value === step)
      : undefined
    const next = isSeq(node) ? node.items[Number(step)] : pair?.value
    if (end === 'key' && index === path.length - 1 && isNode(pair?.key)) return startOf(pair.key)
    if (!isNode(next)) break
    node = next
  }
  return startOf(node)
}

const startOf = (node: Node): number => node.range?.[0] ?? 0

/** `network[3].host`; the top-level `spec` says nothing to a reader and is left out. */
function formatPath(path: Path): string {
  const shown = path[0] === 'spec' && path.length > 1 ? path.slice(1) : path
  let out = ''
  for (const step of shown) {
    if (typeof step === 'number') out += `[${step}]`
    else
      out += /^[A-Za-z_][A-Za-z0-9_-]*$/.test(step)
        ? `${out ? '.' : ''}${step}`
        : `[${printable(JSON.stringify(step), 80)}]`
  }
  return out
}
