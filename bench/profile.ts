/** Profiles that the bench writes for its sessions. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Bench } from './figure.ts'

/** Writes a profile and returns its path. `spec` is the profile's `spec`; YAML takes JSON. */
export function writeProfile(bench: Bench, name: string, spec: object): string {
  const file = join(bench.scratch, `${name}.yaml`)
  const metadata = { name, title: 'Written by ./dev bench' }
  writeFileSync(file, JSON.stringify({ apiVersion: 'ambit/v1', kind: 'Profile', metadata, spec }))
  return file
}
