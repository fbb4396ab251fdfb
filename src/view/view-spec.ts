/** What `ambit-view` is told. JSON in a 0600 file; the Rust side refuses unknown fields and another version. */
import type { Label } from '../profile/plan.ts'

export interface ViewSpec {
  readonly version: 1
  readonly session: string
  /** Journal that the view appends to. */
  readonly journal: string
  /** Host uid/gid pair shown as the agent's own, and what the FUSE connection's user namespace calls it. */
  readonly owner: {
    readonly hostUid: number
    readonly hostGid: number
    readonly uid: number
    readonly gid: number
  }
  /** Bytes and inodes that the session may add through the view. */
  readonly quota: { readonly bytes: number; readonly inodes: number }
  readonly roots: readonly ViewRoot[]
}

export interface ViewRoot {
  /** Name of this root's directory at the top of the mount: `0`, `1`, … */
  readonly index: number
  /** Place in the profile, e.g. `files[0]`, for the record. Roots are sorted by length here: it is not the index. */
  readonly rule?: string
  readonly path: string
  readonly access: 'read' | 'write' | 'review'
  readonly label: Label
  readonly hide: readonly string[]
  readonly protect: readonly string[]
  readonly review: readonly string[]
  /** Directory that holds the upper layer (`files/`, `meta/`) where anything of this root is under review. */
  readonly upper: string | null
  /** Paths, relative to the root, of other roots nested in it: they are mounted over, their names are pinned. */
  readonly nested: readonly string[]
}
