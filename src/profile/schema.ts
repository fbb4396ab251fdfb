/**
 * The form of a profile document, as people write it. Meaning (variables, defaults, overlaps, what may go together)
 * is compile.ts's; this schema only says which keys and shapes exist, so that editors can use it too.
 *
 * Unknown keys are refused and nothing may be null: a misspelt or emptied restriction must never read as "no
 * restriction".
 */
import * as z from 'zod'
import { DURATION, SIZE } from '../lib/units.ts'
import { LABELS, RUNTIMES } from './plan.ts'

export const PROFILE_NAME = /^[a-z][a-z0-9-]{0,40}$/

const size = z
  .string()
  .regex(SIZE, 'a size such as 4MiB or 2GB')
  .meta({ description: 'A number and a unit: B, kB, MB, GB, KiB, MiB, GiB' })
const duration = z
  .string()
  .regex(DURATION, 'a time such as 90s, 30m or 8h')
  .meta({ description: 'A number and a unit: ms, s, m, h, d' })
const label = z.enum(LABELS)
const text = (max: number) => z.string().min(1).max(max)
const glob = text(512).meta({
  description: 'gitignore-like glob relative to the root; the last match wins, ! re-admits',
})
const globs = z.array(glob).max(500)
const path = text(4096)
export const VARIABLE_NAME = /^[A-Za-z_][A-Za-z0-9_]{0,127}$/
const variableName = z.string().regex(VARIABLE_NAME, 'the name of an environment variable')
const credentialName = z.string().regex(/^[a-z][a-z0-9-]{0,40}$/, 'lower case letters, digits and dashes')
const onOff = z.enum(['deny', 'allow'])

const isolation = z.strictObject({
  runtime: z
    .enum(RUNTIMES)
    .optional()
    .meta({ description: 'The weakest isolation that the profile accepts' }),
  limits: z.enum(['required', 'partly']).optional(),
  cpus: z.number().min(0.1).max(1024).optional(),
  memory: size.optional(),
  processes: z.int().min(1).max(1_000_000).optional(),
  wallclock: duration.optional(),
  disk: size
    .optional()
    .meta({ description: 'Bytes that the session may add to the disk, all places together' }),
})

const file = z.strictObject({
  path: path.meta({
    description: 'An absolute directory, or one below ${project}, ${workspace}, ${mirror} or ${home}/',
  }),
  access: z.enum(['read', 'review', 'write']),
  via: z.enum(['view', 'mount']).optional(),
  label: label.optional(),
  hide: globs.optional(),
  protect: globs.optional(),
  review: globs.optional(),
})

const port = z.union([z.int().min(1).max(65535), z.string().regex(/^[1-9]\d{0,4}\/(?:http|tcp)$/)], {
  error: 'a port, PORT/http for plain HTTP, or PORT/tcp for anything',
})

const rule = z.strictObject({
  host: text(255).meta({ description: 'A host name, *.name for its strict subdomains, or an IP address' }),
  ports: z.array(port).max(32).optional().meta({
    description:
      'Omitted: 443. PORT/http allows plain HTTP on that port; PORT/tcp, alone and with connect, anything unread',
  }),
  methods: z
    .array(z.string().regex(/^[A-Z]{1,20}$/, 'an upper-case HTTP method'))
    .max(20)
    .optional(),
  paths: z
    .array(text(1024))
    .max(200)
    .optional()
    .meta({ description: '* stays within a segment, a trailing * takes any rest' }),
  clearance: label.optional().meta({ description: 'The highest label that may be sent there' }),
  credential: credentialName.optional(),
  inspect: z.boolean().optional(),
  connect: text(80).optional().meta({ description: 'ADDRESS:PORT to dial instead of what DNS says' }),
  ca: path.optional().meta({ description: 'PEM file of extra roots, relative to the profile' }),
})

const credential = z.strictObject({
  name: credentialName,
  kind: z.literal('header'),
  header: z.string().regex(/^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}$/, 'a header name'),
  prefix: z
    .string()
    .regex(/^[\x20-\x7e]{0,64}$/, 'printable ASCII')
    .optional(),
  source: text(4096).meta({ description: 'env:NAME or file:PATH, read outside the sandbox' }),
  env: variableName.optional().meta({ description: 'Variable that holds a placeholder inside' }),
})

const mirrored = z.strictObject({
  from: path.meta({ description: 'A file to copy into the mirror directory' }),
  to: path.optional().meta({ description: 'Its name there; default: its own name' }),
})

const spec = z.strictObject({
  extends: z.string().regex(PROFILE_NAME, 'the name of a profile').optional().meta({
    description: 'A profile to narrow: entries may be removed, values lowered, denies added',
  }),
  isolation: isolation.optional(),
  files: z.array(file).max(100).optional(),
  mirror: z.array(mirrored).max(1000).optional(),
  hide: globs.optional(),
  protect: globs.optional(),
  review: globs.optional(),
  network: z.array(rule).max(500).optional(),
  upload: z
    .strictObject({ perRequest: size.optional(), perMinute: size.optional(), perSession: size.optional() })
    .optional(),
  credentials: z.array(credential).max(100).optional(),
  environment: z
    .strictObject({
      pass: z.array(variableName).max(200).optional(),
      set: z.record(variableName, z.string().max(4096)).optional(),
    })
    .optional(),
  desktop: z
    .strictObject({ clipboard: onOff.optional(), display: onOff.optional(), audio: onOff.optional() })
    .optional(),
  approvals: z
    .array(z.enum(['start']))
    .max(10)
    .optional()
    .meta({ description: 'What a person must approve' }),
})

export const profileSchema = z.strictObject({
  apiVersion: z.literal('ambit/v1'),
  kind: z.literal('Profile'),
  metadata: z.strictObject({
    name: z.string().regex(PROFILE_NAME, 'lower case letters, digits and dashes'),
    title: text(120).optional(),
  }),
  spec,
})

export type ProfileSource = z.infer<typeof profileSchema>
export type ProfileSpec = ProfileSource['spec']
export type FileEntry = z.infer<typeof file>
export type RuleEntry = z.infer<typeof rule>
export type CredentialEntry = z.infer<typeof credential>

/** The JSON Schema for editors; `profiles/profile.schema.json` is this (a test keeps it so). */
export function profileJsonSchema(): Record<string, unknown> {
  return { ...z.toJSONSchema(profileSchema, { io: 'input' }), title: 'Ambit profile' }
}
