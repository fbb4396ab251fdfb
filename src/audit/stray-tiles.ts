/** Tiles that a crash left beyond the committed size, and partial tiles that later ones replaced. */
import * as fs from 'node:fs'
import { join } from 'node:path'
import { type Level, WIDTH, hashesAt } from './tiles.ts'

/**
 * Paths under `dir` that no reader of a tree of `size` needs: partial tiles other than its own, and tiles beyond its
 * right edge. Never a tile that the tree needs, even where that one is missing.
 */
export function strayTiles(dir: string, size: number): string[] {
  const exists = (level: Level): boolean => fs.existsSync(join(dir, 'tile', String(level)))
  const levels: Level[] = exists('entries') ? ['entries'] : []
  for (let level = 0; exists(level); level++) levels.push(level)
  return levels.flatMap((level) => {
    const hashes = hashesAt(level === 'entries' ? 0 : level, size)
    const edge = { index: Math.floor(hashes / WIDTH), width: hashes % WIDTH }
    return strayIn(dir, `tile/${level}`, 0, edge)
  })
}

/** `index` is what the directories above say of the tile's number, three digits each. */
function strayIn(dir: string, path: string, index: number, edge: { index: number; width: number }): string[] {
  return fs.readdirSync(join(dir, path)).flatMap((name) => {
    const match = /^(x?)([0-9]{3})(\.p)?$/.exec(name)
    if (!match) return []
    const own = `${path}/${name}`
    const number = index * 1000 + Number(match[2])
    if (match[1]) return strayIn(dir, own, number, edge)
    if (!match[3]) return number >= edge.index ? [own] : []
    if (number !== edge.index || edge.width === 0) return [own]
    return fs
      .readdirSync(join(dir, own))
      .flatMap((width) => (width === String(edge.width) ? [] : [`${own}/${width}`]))
  })
}
