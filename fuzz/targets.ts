/**
 * A target for each parser of outside bytes. `run` must return for every input, within the time limit of the runner;
 * it throws only when a promise of the parser is broken. Refusing is fine, and done with the parser's own error.
 */
import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openCheckpoint } from '../src/audit/checkpoint.ts'
import { MAGIC, readFacts } from '../src/audit/journal-reader.ts'
import { EventEncoder, encodeEvent, toEvent } from '../src/audit/ocsf.ts'
import { openNote, parseVerifierKey } from '../src/audit/note.ts'
import { parseFact } from '../src/audit/parse-fact.ts'
import { parseBundle } from '../src/audit/tiles.ts'
import { encodeFrame, FrameReader } from '../src/daemon/frames.ts'
import { parseClientHello } from '../src/gate/client-hello.ts'
import type { Injection } from '../src/gate/credential.ts'
import { buildAnswer, parseQuery } from '../src/gate/dns.ts'
import { FrameScrubber } from '../src/gate/frames.ts'
import { Masker } from '../src/gate/scrub.ts'
import { Wire } from '../src/gate/wire.ts'
import { AmbitError } from '../src/lib/errors.ts'
import { compileGlobs } from '../src/lib/glob.ts'
import { parseAuthority, parseHost } from '../src/lib/host.ts'
import { printable } from '../src/lib/printable.ts'
import { compilePlan } from '../src/profile/compile.ts'
import { loadProfile } from '../src/profile/load.ts'
import { parseEvent } from '../src/runtime/launch-channel.ts'
import { frame } from '../test/audit/samples.ts'
import { throughJavaScript } from './answer.ts'

const CONTEXT = { device: { uid: 'd', hostname: 'h' }, start: null }
/** Never connected: it holds no process open once stopped. */
const WIRE = new Wire()
WIRE.stop()
const ENCODER = new EventEncoder(CONTEXT, 's')
const FREQUENT = [
  '{"k":"http.request","flow":17,"request":1,"method":"POST","host":"a.example","port":443,"path":"/v1?b=\\"","rule":"n","credential":null,"label":"internal","bytes":9,"t":1,"m":2}',
  '{"k":"http.response","flow":17,"request":1,"status":200,"bytesOut":9,"bytesIn":900,"ms":80,"scrubbed":0,"t":1,"m":2}',
  '{"k":"file.open","path":"/w/\\u001b\u00e9\ud83d\ude00","mode":"read","size":12,"sha256":null,"label":"public","t":1,"m":2}',
].map((text) => Buffer.from(text))

export interface Target {
  readonly seeds: readonly Buffer[]
  run(input: Buffer): void
}

const text = (value: string): Buffer => Buffer.from(value)

/** Runs `parse`; its own refusal is an answer, any other error is a finding. */
function refusable(parse: () => void): void {
  try {
    parse()
  } catch (error) {
    if (!(error instanceof AmbitError)) throw error
  }
}

function demand(holds: boolean, promise: string): void {
  if (!holds) throw new Error(`broken: ${promise}`)
}

const VKEY = 'example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k'
// The example of C2SP signed-note.
const NOTE =
  'This is an example message.\n\n— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n'

const QUERY = Buffer.from('123401000001000000000000036170690765786d616d706c6503636f6d0000010001', 'hex')

/** The smallest hello that names `localhost`. */
const HELLO = Buffer.concat([
  Buffer.from('16030100410100003d0303', 'hex'),
  Buffer.alloc(32, 7),
  Buffer.from('000002130101000012', 'hex'),
  Buffer.from('0000000e000c0000096c6f63616c686f7374', 'hex'),
])

const FACT = text(
  '{"k":"file.open","path":"/a","mode":"read","size":1,"sha256":null,"label":"internal","t":1,"m":2}',
)

// oxlint-disable-next-line no-control-regex -- what must not come through
const MOVES = /[\u0000-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/

const SECRET = 'sk-real-0123456789'
const INJECTION: Injection = { name: 'key', header: 'x-api-key', value: SECRET, needles: [SECRET] }

/** A server's text frame. */
const serverFrame = (payload: string): Buffer =>
  Buffer.concat([Buffer.from([0x81, payload.length]), text(payload)])

/** What comes out of a scrubber that is fed in pieces of `size`; null when it refuses. */
function scrubbed(input: Buffer, size: number): Buffer | null {
  const scrubber = FrameScrubber.for(INJECTION) as FrameScrubber
  let refused = false
  scrubber.on('error', () => {
    refused = true
  })
  const out: Buffer[] = []
  for (let at = 0; at < input.length && scrubber.errored === null; at += size) {
    // A copy: masking is done in place.
    scrubber.write(Buffer.from(input.subarray(at, at + size)))
    for (let part = scrubber.read(); part !== null; part = scrubber.read()) out.push(part as Buffer)
  }
  return refused || scrubber.errored !== null ? null : Buffer.concat(out)
}

const PLACES = { config: '/nonexistent/config', state: '/nonexistent/state', run: '/nonexistent/run' }

/** By the way of `ambit run --profile FILE`: text, schema, plan. */
function profileThrough(input: Buffer): void {
  const dir = mkdtempSync(join(tmpdir(), 'ambit-fuzz-'))
  try {
    const file = join(dir, 'fuzz.yaml')
    writeFileSync(file, input)
    refusable(() => {
      const document = loadProfile(file, PLACES)
      const plan = compilePlan(document, { project: dir, workspace: dir, home: dir, searchPath: [] }, PLACES)
      demand(plan.version === 1 && plan.profile.file === file, 'a plan is of the profile that was asked for')
    })
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
}

export const TARGETS: Readonly<Record<string, Target>> = {
  'client-hello': {
    seeds: [HELLO, HELLO.subarray(0, 20), text('GET / HTTP/1.1\r\n')],
    run: (input) => {
      const whole = parseClientHello(input)
      demand(['hello', 'incomplete', 'unreadable'].includes(whole.kind), 'an answer of the three')
      if (whole.kind !== 'hello') return
      // What a prefix already was refused for cannot become readable with more bytes.
      const part = parseClientHello(input.subarray(0, input.length >> 1))
      demand(part.kind !== 'unreadable', 'a refused prefix stays refused')
    },
  },
  masker: {
    seeds: [
      text(`you sent ${SECRET} and more`),
      text(`${SECRET}${SECRET}sk-re`),
      text('sksksk-realsk-real-012345678'),
    ],
    run: (input) => {
      const size = 1 + ((input[0] ?? 0) % 7)
      const masker = new Masker([SECRET], () => undefined)
      const parts: Buffer[] = []
      for (let at = 0; at < input.length; at += size)
        parts.push(Buffer.from(masker.feed(Buffer.from(input.subarray(at, at + size)))))
      const whole = Buffer.concat([...parts, masker.end()]).toString('latin1')
      const expected = input.toString('latin1').replaceAll(SECRET, '*'.repeat(SECRET.length))
      demand(whole === expected, 'cuts between pieces change nothing')
    },
  },
  'websocket-frames': {
    seeds: [
      Buffer.concat([serverFrame(`you sent ${SECRET}`), serverFrame('bus'), serverFrame('')]),
      Buffer.concat([Buffer.from([0x01, 126, 0, 3]), text('sk-'), Buffer.from([0x80, 5]), text('real-')]),
      Buffer.concat([Buffer.from([0x82, 127, 0, 0, 0, 0, 0, 0, 0, 4]), text('data'), Buffer.from([0x88, 0])]),
    ],
    run: (input) => {
      const [whole, pieces] = [scrubbed(input, input.length || 1), scrubbed(input, 1 + ((input[2] ?? 0) % 5))]
      demand((whole === null) === (pieces === null), 'cuts between pieces change no refusal')
      if (whole === null || pieces === null) return
      demand(whole.length <= input.length, 'nothing is added')
      // What is held back of a frame that has not ended may differ by nothing but its moment.
      const short = Math.min(whole.length, pieces.length)
      demand(whole.subarray(0, short).equals(pieces.subarray(0, short)), 'cuts between pieces change no byte')
    },
  },
  dns: {
    seeds: [QUERY],
    run: (input) => {
      const query = parseQuery(input)
      if (query === null || 'rcode' in query) return
      const answer = buildAnswer(query, 0, '21.0.0.1', 300)
      demand(answer.length < 1024, 'an answer is small')
      demand(answer.readUInt16BE(0) === input.readUInt16BE(0), 'an answer carries the id of its query')
    },
  },
  host: {
    seeds: [text('Api.Example.COM.'), text('0x7f.1'), text('[::1]:443'), text('xn--bcher-kva.example:8443')],
    run: (input) => {
      const host = parseHost(input.toString())
      if (host !== null) demand(parseHost(host) === host, 'the canonical form is its own canonical form')
      parseAuthority(input.toString(), 443)
    },
  },
  glob: {
    seeds: [text('**/.env\n.env'), text('a/*/b?c\na/x/bbc'), text('!**/*.pem\nx.pem')],
    run: (input) => {
      const [pattern = '', ...path] = input.toString().split('\n')
      refusable(() => compileGlobs([pattern])(path.join('/')))
    },
  },
  profile: {
    seeds: [
      text('apiVersion: ambit/v1\nkind: Profile\nmetadata: { name: a }\nspec: { files: [] }\n'),
      text(
        `apiVersion: ambit/v1\nkind: Profile\nmetadata: { name: b }\nspec:\n  isolation: { runtime: os-sandbox, memory: 1GiB, wallclock: 5m }\n  files: [{ path: "\${project}", access: write, hide: ["**/.env"] }]\n  network: [{ host: "*.a.example", ports: [443], methods: [GET] }]\n  upload: { perRequest: 1MiB }\n`,
      ),
      Buffer.from('['.repeat(3000)),
    ],
    run: profileThrough,
  },
  journal: {
    seeds: [Buffer.concat([MAGIC, frame(FACT), frame(FACT)])],
    run: (input) => {
      const dir = mkdtempSync(join(tmpdir(), 'ambit-fuzz-'))
      const path = join(dir, 'j')
      writeFileSync(path, input)
      const fd = openSync(path, 'r')
      try {
        const facts = readFacts(fd, 'fuzz')
        let step = facts.next()
        while (!step.done) step = facts.next()
        demand(step.value.offset <= input.length, 'reading ends within the file')
      } finally {
        closeSync(fd)
        rmSync(dir, { recursive: true })
      }
    },
  },
  fact: {
    seeds: [FACT],
    run: (input) => {
      try {
        demand(typeof parseFact(input).k === 'string', 'a fact has a kind')
      } catch (error) {
        // Its refusal is a plain error that becomes a `gap` fact.
        if (!String(error).startsWith('Error: not a fact')) throw error
      }
    },
  },
  'frequent-fact': {
    seeds: FREQUENT,
    run: (input) => {
      if (input.length === 0) return
      const room = Buffer.alloc(1 << 17)
      const { count, written } = ENCODER.frequent('run').encode(frame(input), 8, room, 0, 1, 1, Infinity)
      if (count === 0) return
      const event = toEvent(parseFact(input), { session: 's', journal: 'run', offset: 8 }, CONTEXT, 1)
      demand(encodeEvent(event).equals(room.subarray(2, written)), 'native code encodes as TypeScript does')
    },
  },
  answer: {
    seeds: [
      text('HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nAlt-Svc: x\r\nContent-Length: 2\r\n\r\nok'),
      text('HTTP/1.1 404 Not Found\r\nKeep-Alive: timeout=5\r\nX: \t y \r\ncontent-length: 0\r\n\r\n'),
    ],
    run: (input) => {
      const passed = WIRE.rewritten(input)
      if (passed) demand(throughJavaScript(input)?.equals(passed) === true, 'both ways read and write alike')
    },
  },
  'daemon-frames': {
    seeds: [encodeFrame({ id: 1, op: 'hello', args: { v: 1 } })],
    run: (input) =>
      refusable(() => {
        const whole = new FrameReader().push(input)
        const split = new FrameReader()
        const parts = [...split.push(input.subarray(0, 3)), ...split.push(input.subarray(3))]
        demand(JSON.stringify(whole) === JSON.stringify(parts), 'cuts between chunks change nothing')
      }),
  },
  'launch-events': {
    seeds: [text('{"ev":"ready","controls":[]}'), text('{"ev":"exit","code":1}')],
    run: (input) => void parseEvent(input.toString()),
  },
  note: {
    seeds: [text(NOTE)],
    run: (input) =>
      refusable(() => {
        const opened = openNote(input.toString(), parseVerifierKey(VKEY))
        demand(NOTE.startsWith(opened), 'no other text opens under this key')
      }),
  },
  checkpoint: {
    seeds: [text(NOTE)],
    run: (input) => refusable(() => openCheckpoint(input.toString(), parseVerifierKey(VKEY))),
  },
  bundle: {
    seeds: [Buffer.from('0003616263000164', 'hex')],
    run: (input) => {
      const { entries, bad } = parseBundle(input, 2)
      const bytes = entries.reduce((sum, entry) => sum + entry.length + 2, 0)
      demand(bytes <= input.length && (bad !== null || entries.length === 2), 'entries lie within the bundle')
    },
  },
  printable: {
    seeds: [text('a\u001b[2Jb\u202ec\u200d'), Buffer.from([0xff, 0x9b, 0x41])],
    run: (input) => demand(!MOVES.test(printable(input.toString())), 'nothing that moves a cursor'),
  },
}
