/** Tiles that a crash left beyond the committed size, and partial tiles that later ones replaced. */
import * as fs from 'node:fs'
import { join } from 'node:path'
import { type Level, WIDTH, hashesAt, partialDir, tilePath } from './tiles.ts'

/**
 * Paths under `dir` that no reader of a tree of `size` needs, near its right edge: partial widths other than the
 * tree's own, and tiles after the last one. Never a tile that the tree needs, even where that one is missing.
 */
export function strayTiles(dir: string, size: number): string[] {
  const levels: Level[] = ['entries']
  for (let level = 0; fs.existsSync(join(dir, 'tile', String(level))); level++) levels.push(level)
  return levels.flatMap((level) => strayAt(dir, level, size))
}

function strayAt(dir: string, level: Level, size: number): string[] {
  const hashes = hashesAt(level === 'entries' ? 0 : level, size)
  const edge = Math.floor(hashes / WIDTH)
  const own = hashes % WIDTH
  const stray: string[] = []
  // The tile before the edge is full; its partial forms may remain.
  if (edge > 0) stray.push(partialDir(level, edge - 1))
  for (const width of listWidths(dir, level, edge))
    if (width !== own) stray.push(tilePath(level, edge, width))
  stray.push(tilePath(level, edge, WIDTH))
  for (let index = edge + 1; hasTile(dir, level, index); index++)
    stray.push(tilePath(level, index, WIDTH), partialDir(level, index))
  return stray.filter((path) => fs.existsSync(join(dir, path)))
}

function listWidths(dir: string, level: Level, index: number): number[] {
  const path = join(dir, partialDir(level, index))
  return fs.existsSync(path) ? fs.readdirSync(path).map(Number) : []
}

const hasTile = (dir: string, level: Level, index: number): boolean =>
  fs.existsSync(join(dir, tilePath(level, index, WIDTH))) ||
  fs.existsSync(join(dir, partialDir(level, index)))
