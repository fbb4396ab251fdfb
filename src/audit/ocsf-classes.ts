/**
 * What each kind of fact is in OCSF 1.8.0. Classes: file_activity 1001, process_activity 1007, network_activity 4001,
 * http_activity 4002, dns_activity 4003, application_lifecycle 6002 (the session itself, and gaps in its record),
 * api_activity 6003 (decisions of the monitor, uses of credentials: operations of Ambit upon a resource).
 * The frequent kinds have a second form, native/node/src/events/event.rs; a test holds both to the same bytes.
 */
import type { Effect, Fact } from './fact.ts'
import { AGENT, TCP, endpoint, fileObject, processObject, sha256Hash, tlsObject } from './ocsf-objects.ts'

export interface Mapped {
  readonly class_uid: number
  readonly activity_id: number
  /** Default: 1 informational, 3 medium for a refusal. */
  readonly severity?: number
  readonly status?: 'success' | 'failure'
  readonly effect?: Effect
  /** One line; agent-controlled text in it is made printable by whoever shows it. */
  readonly message: string
  /** Attributes of the class. */
  readonly attributes: Readonly<Record<string, unknown>>
  /** What OCSF has no word for. */
  readonly ambit: Readonly<Record<string, unknown>>
}

type Of<K extends Fact['k']> = Extract<Fact, { k: K }>
type Mapper = { readonly [K in Fact['k']]: (fact: Of<K>) => Mapped }

export const mapFact = (fact: Fact): Mapped => (MAPPERS[fact.k] as (fact: Fact) => Mapped)(fact)

const OTHER = 99
const HIGH = 4

const session = (
  activity: number | string,
  message: string,
  ambit: object,
  more: Partial<Mapped> = {},
): Mapped => ({
  class_uid: 6002,
  message,
  ambit: { ...ambit },
  ...more,
  ...named(activity, { app: { name: 'ambit session' }, ...more.attributes }),
})

const file = (
  activity: number | string,
  message: string,
  path: string,
  facts: object,
  ambit: object,
): Mapped => ({
  class_uid: 1001,
  effect: 'allow',
  message,
  ambit: { ...ambit },
  ...named(activity, { file: fileObject(path, { ...facts }) }),
})

const api = (
  operation: string,
  effect: Effect,
  message: string,
  resource: object,
  ambit: object,
): Mapped => ({
  class_uid: 6003,
  effect,
  message,
  ambit: { ...ambit },
  ...named('Decide', {
    api: { operation, service: { name: 'ambit' } },
    src_endpoint: AGENT,
    resources: [resource],
  }),
})

/** Activity by number, or `Other` with its name. */
const named = (activity: number | string, attributes: object): Pick<Mapped, 'activity_id' | 'attributes'> =>
  typeof activity === 'number'
    ? { activity_id: activity, attributes: { ...attributes } }
    : { activity_id: OTHER, attributes: { activity_name: activity, ...attributes } }

/** Methods that OCSF has a number for. */
const HTTP_ACTIVITY: ReadonlyMap<string, number> = new Map([
  ['CONNECT', 1],
  ['DELETE', 2],
  ['GET', 3],
  ['HEAD', 4],
  ['OPTIONS', 5],
  ['POST', 6],
  ['PUT', 7],
  ['TRACE', 8],
  ['PATCH', 9],
])

interface Requested {
  readonly method: string
  readonly host: string
  readonly port: number
  readonly path: string
}

function http(
  request: Requested,
  more: Omit<Mapped, 'class_uid' | 'activity_id' | 'message'>,
  id?: string,
): Mapped {
  const { method, host, port, path } = request
  const [file, query] = splitOnce(path, '?')
  const url = { hostname: host, port, path: file, ...(query === undefined ? {} : { query_string: query }) }
  const http_request = { http_method: method, url, ...(id === undefined ? {} : { uid: id }) }
  return {
    class_uid: 4002,
    message: `${method} ${host}${path}`,
    ...more,
    ...named(HTTP_ACTIVITY.get(method) ?? (method || 'Unknown'), {
      http_request,
      dst_endpoint: endpoint(host, undefined, port),
      src_endpoint: AGENT,
      ...more.attributes,
    }),
  }
}

function splitOnce(text: string, mark: string): [string, string | undefined] {
  const at = text.indexOf(mark)
  return at < 0 ? [text, undefined] : [text.slice(0, at), text.slice(at + 1)]
}

/** Operations of the view that a refusal may name, as file activities. */
const FILE_ACTIVITY: ReadonlyMap<string, number> = new Map([
  ['create', 1],
  ['mkdir', 1],
  ['mknod', 1],
  ['symlink', 1],
  ['link', 1],
  ['read', 2],
  ['write', 3],
  ['truncate', 3],
  ['unlink', 4],
  ['rmdir', 4],
  ['delete', 4],
  ['rename', 5],
  ['setattr', 6],
  ['attributes', 6],
  ['setxattr', 6],
  ['removexattr', 6],
  ['lookup', 14],
  ['open', 14],
  ['opendir', 14],
  ['readdir', 14],
])

const MAPPERS: Mapper = {
  'session.start': ({ agent, planDigest, sheetDigest, runtime, argv, cwd }) =>
    session(
      3,
      `session of ${agent.name} starts`,
      { planDigest, sheetDigest, runtime, argv, cwd, agentDigest: agent.digest },
      {
        status: 'success',
        attributes: {
          app: { name: agent.name, ...(agent.version === null ? {} : { version: agent.version }) },
        },
      },
    ),
  'session.enforced': ({ controls }) =>
    session('Enforce', controls.map(({ control, state }) => `${control}: ${state}`).join(', '), { controls }),
  'machine.image': ({ image, kernel, initramfs, root, commandLine, planDigest, snapshot }) =>
    session('Measure', `a machine starts from the image ${image}`, {
      machine: { image, kernel, initramfs, root, commandLine, planDigest, snapshot },
    }),
  'machine.measured': ({ device, ak, eventLog }) =>
    session('Measure', `what the machine starts from is in its TPM (${device})`, {
      tpm: { device, ak, eventLog },
    }),
  'machine.quote': ({ nonce, quote, signature, by }) =>
    session('Attest', `quote of the machine's TPM for ${by}`, { quote: { nonce, quote, signature, by } }),
  'session.end': ({ outcome, exit, reason }) =>
    session(
      4,
      `session ${outcome}${reason ? `: ${reason}` : ''}`,
      { outcome, exit, reason },
      {
        status: outcome === 'ended' ? 'success' : 'failure',
        severity: outcome === 'ended' ? 1 : 3,
      },
    ),
  'session.freeze': ({ by }) => session('Freeze', `frozen by ${by}`, { by }, { severity: 3 }),
  'session.thaw': ({ by }) => session('Thaw', `thawed by ${by}`, { by }),
  'session.stalled': ({ reason }) => session('Stall', `stalled: ${reason}`, { reason }, { severity: HIGH }),
  gap: ({ journal, reason }) =>
    session(
      'Gap',
      `records missing in ${journal}: ${reason}`,
      { gap: { journal, reason } },
      { severity: HIGH },
    ),

  'process.launch': ({ pid, ppid, path, digest, argv, cwd, truncated }) => ({
    class_uid: 1007,
    activity_id: 1,
    effect: 'allow',
    message: `launch ${argv.join(' ') || path}`,
    attributes: {
      process: {
        ...processObject(pid, path),
        file: fileObject(path, sha256Hash(digest)),
        cmd_line: argv.join(' '),
        working_directory: cwd,
        parent_process: { pid: ppid },
      },
    },
    ambit: { argv, truncated },
  }),
  'process.exit': ({ pid, code }) => ({
    class_uid: 1007,
    activity_id: 2,
    message: `process ${pid} ends${code === null ? '' : ` with ${code}`}`,
    attributes: { process: processObject(pid), ...(code === null ? {} : { exit_code: code }) },
    ambit: {},
  }),
  'process.denied': ({ pid, path, reason }) => ({
    class_uid: 1007,
    activity_id: 1,
    effect: 'deny',
    message: `launch of ${path} refused: ${reason}`,
    attributes: { process: processObject(pid, path) },
    ambit: { reason },
  }),

  'file.open': ({ path, mode, size, sha256, label }) =>
    file(
      14,
      `open ${path} for ${mode === 'read' ? 'reading' : 'writing'}`,
      path,
      { size, ...sha256Hash(sha256) },
      { mode, label },
    ),
  'file.write': ({ path, size, sha256, label }) =>
    file(3, `write ${path}`, path, { size, ...sha256Hash(sha256) }, { label }),
  'file.intent': ({ path, files, label }) =>
    file(
      'Intent',
      `up to ${files} files beneath ${path} are being written`,
      path,
      { type_id: 2 },
      { files, label },
    ),
  'file.create': ({ path, type }) =>
    file(1, `create ${path}`, path, { type_id: { file: 1, dir: 2, link: 7, other: 99 }[type] }, { type }),
  'file.delete': ({ path }) => file(4, `delete ${path}`, path, {}, {}),
  'file.rename': ({ path, to }) => {
    const mapped = file(5, `rename ${path} to ${to}`, path, {}, {})
    return { ...mapped, attributes: { ...mapped.attributes, file_result: fileObject(to) } }
  },
  'file.attributes': ({ path }) => file(6, `change attributes of ${path}`, path, {}, {}),
  'file.failed': ({ path, to, op, reason }) => {
    const mapped = file(
      FILE_ACTIVITY.get(op) ?? op,
      `${op} ${path} failed: ${reason}`,
      path,
      {},
      { op, reason },
    )
    const result = to === undefined ? null : { file_result: fileObject(to) }
    return { ...mapped, status: 'failure', attributes: { ...mapped.attributes, ...result } }
  },
  'file.hash': ({ path, size, sha256 }) =>
    file('Hash', `hash ${path}`, path, { size, ...sha256Hash(sha256) }, {}),
  'file.denied': ({ path, op, reason, rule, count }) => {
    const mapped = file(
      FILE_ACTIVITY.get(op) ?? op,
      `${op} ${path} refused: ${reason}`,
      path,
      {},
      { op, reason, rule },
    )
    return { ...mapped, attributes: { ...mapped.attributes, ...(count && { count }) }, effect: 'deny' }
  },
  'review.applied': ({ path, sha256 }) =>
    file(3, `review: ${path} applied`, path, sha256Hash(sha256), { review: 'applied' }),
  'review.dropped': ({ path }) => file('Drop', `review: ${path} dropped`, path, {}, { review: 'dropped' }),

  'dns.query': ({ name, type, answer, reason, rule }) => ({
    class_uid: 4003,
    activity_id: 1,
    effect: answer === null ? 'deny' : 'allow',
    message: `DNS ${type} ${name}${answer === null ? ` refused: ${reason ?? 'no answer'}` : ''}`,
    attributes: {
      query: { hostname: name, type },
      src_endpoint: AGENT,
      ...(answer === null ? {} : { answers: [{ rdata: answer, type }] }),
    },
    ambit: { reason, rule },
  }),
  'net.open': ({ flow, host, address, port, rule, tls }) => ({
    class_uid: 4001,
    activity_id: 1,
    effect: 'allow',
    message: `connect to ${host || address}:${port}`,
    attributes: {
      dst_endpoint: endpoint(host, address, port),
      connection_info: { ...TCP, uid: String(flow) },
      ...tlsObject(tls),
    },
    ambit: { flow, rule, ...(tls ? { notAfter: tls.notAfter } : {}) },
  }),
  'net.close': ({ flow, host, bytesOut, bytesIn, ms }) => ({
    class_uid: 4001,
    activity_id: 2,
    message: `connection to ${host} closed, ${bytesOut} bytes out, ${bytesIn} in`,
    attributes: {
      dst_endpoint: endpoint(host),
      connection_info: { ...TCP, uid: String(flow) },
      traffic: { bytes_out: bytesOut, bytes_in: bytesIn, bytes: bytesOut + bytesIn },
      duration: ms,
    },
    ambit: { flow },
  }),
  'net.denied': ({ flow, host, address, port, reason, rule }) => ({
    class_uid: 4001,
    activity_id: 5,
    effect: 'deny',
    message: `connection to ${host || address}:${port} refused: ${reason}`,
    attributes: {
      dst_endpoint: endpoint(host, address, port),
      connection_info: { ...TCP, uid: String(flow) },
    },
    ambit: { flow, reason, rule },
  }),

  'http.request': ({ flow, request, rule, credential, label, bytes, ...rest }) =>
    http(
      rest,
      {
        effect: 'allow',
        attributes: { traffic: { bytes_out: bytes } },
        ambit: { flow, request, rule, credential, label },
      },
      `${flow}/${request}`,
    ),
  'http.response': ({ flow, request, status, bytesOut, bytesIn, ms, scrubbed }) => ({
    class_uid: 4002,
    message: `HTTP ${status}, ${bytesOut} bytes out, ${bytesIn} in`,
    ambit: { flow, request, scrubbed },
    ...named('Response', {
      http_request: { uid: `${flow}/${request}` },
      http_response: { code: status, latency: ms },
      src_endpoint: AGENT,
      traffic: { bytes_out: bytesOut, bytes_in: bytesIn, bytes: bytesOut + bytesIn },
      duration: ms,
    }),
  }),
  'http.denied': ({ flow, reason, rule, status, ...rest }) =>
    http(rest, {
      effect: 'deny',
      attributes: { http_response: { code: status } },
      ambit: { flow, reason, rule },
    }),

  'credential.injected': ({ name, host, request }) =>
    api(
      'credential.inject',
      'allow',
      `credential ${name} used for ${host}`,
      { name, type: 'credential' },
      { credential: name, host, request },
    ),
  'credential.foreign': ({ host, header, fingerprint }) => ({
    ...api(
      'credential.refuse',
      'deny',
      `a credential that is not the session's, in ${header} to ${host}`,
      { name: host, type: 'host' },
      { host, header, fingerprint },
    ),
    severity: HIGH,
  }),
  decision: ({ action, effect, reason, rule, target }) =>
    api(
      action,
      effect,
      `${action} ${target}: ${effect} (${reason})`,
      { name: target, type: 'target' },
      { reason, rule, target },
    ),
}
