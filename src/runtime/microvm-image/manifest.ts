/** What an image consists of. Its bytes are signed; everything else follows from digests in it. */
import { z } from 'zod'

const digest = z.string().regex(/^[0-9a-f]{64}$/)
const file = z.strictObject({
  name: z.string().regex(/^[a-z][a-z.-]*$/),
  size: z.number().int().positive(),
  sha256: digest,
})

const schema = z.strictObject({
  v: z.literal(1),
  architecture: z.literal('x86_64'),
  kernel: file,
  initramfs: file,
  /** The root file system, and behind it its dm-verity hash tree. */
  root: file,
  /** Of the guest kernel; holds the root image's hash. */
  commandLine: z.string().max(2000),
  verity: z.strictObject({ blocks: z.number().int().positive(), hash: digest, salt: digest }),
  /** `NAME VERSION`, sorted; the kernel's first. */
  packages: z.array(z.string()),
  /** Path in the image → SHA-256 of each program. */
  programs: z.record(z.string(), digest),
})

export type Manifest = z.infer<typeof schema>
export type ImageFile = z.infer<typeof file>

export const MANIFEST = 'manifest.json'
export const SIGNATURE = 'manifest.json.minisig'
export type Part = 'kernel' | 'initramfs' | 'root'

/** Throws a ZodError for what is no manifest. Call it with signed bytes only. */
export const parseManifest = (bytes: Buffer): Manifest => schema.parse(JSON.parse(bytes.toString()))

export const formatManifest = (manifest: Manifest): string => `${JSON.stringify(manifest, null, 1)}\n`
