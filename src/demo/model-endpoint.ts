import { randomUUID } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { createServer, type Server } from 'node:https'
import type { AddressInfo } from 'node:net'
import type { Turn } from './model.ts'

/** A model endpoint on loopback that speaks the OpenAI Responses API, streamed, and takes its turns from a script. */
export interface ModelEndpoint {
  readonly port: number
  /** Everything that clients sent, headers and bodies: what left the session. */
  readonly received: readonly Received[]
  close(): Promise<void>
}

export interface Received {
  readonly method: string
  readonly path: string
  readonly authorization: string
  readonly body: string
}

export interface EndpointOptions {
  readonly tls: { readonly cert: string; readonly key: string }
  /** Answers other keys with 401. */
  readonly apiKey: string
  /** The next turn after the outputs of the tools so far. */
  readonly next: (outputs: readonly string[]) => Turn
  /** Told each turn, once. */
  readonly onTurn: (turn: Turn) => void
}

/** Largest request, bytes: a conversation of a dozen turns is some 100 KiB. */
const MAX_BODY = 8 << 20

/** A model endpoint on loopback that answers with the demonstration's turns and keeps what it received. */
export async function startModelEndpoint(options: EndpointOptions): Promise<ModelEndpoint> {
  const received: Received[] = []
  const server = createServer(options.tls, (request, response) => {
    answer(request, response, options, received).catch((error: unknown) => response.destroy(error as Error))
  })
  await listen(server)
  return {
    port: (server.address() as AddressInfo).port,
    received,
    close: () => {
      server.closeAllConnections()
      return new Promise((resolve) => server.close(() => resolve()))
    },
  }
}

async function answer(
  request: IncomingMessage,
  response: ServerResponse,
  options: EndpointOptions,
  received: Received[],
): Promise<void> {
  const body = await readBody(request)
  const { method = '', url: path = '' } = request
  const authorization = request.headers.authorization ?? ''
  received.push({ method, path, authorization, body })
  if (authorization !== `Bearer ${options.apiKey}`) return fail(response, 401, 'no such key')
  if (method !== 'POST' || !path.startsWith('/v1/responses'))
    return fail(response, 404, 'only POST /v1/responses')
  const turn = options.next(outputsIn(body))
  options.onTurn(turn)
  stream(response, turn)
}

/** Texts of the tools' answers in a conversation, oldest first. */
export function outputsIn(body: string): string[] {
  const { input } = JSON.parse(body) as { input?: unknown }
  if (!Array.isArray(input)) return []
  return input
    .filter((item: { type?: unknown }) => item.type === 'function_call_output')
    .map((item: { output?: unknown }) => textOf(item.output))
}

const textOf = (output: unknown): string => (typeof output === 'string' ? output : JSON.stringify(output))

/** Server-sent events in the order of platform.openai.com/docs/api-reference/responses-streaming. */
function stream(response: ServerResponse, turn: Turn): void {
  const id = `resp_${randomUUID()}`
  const item = itemOf(turn)
  const usage = {
    input_tokens: 0,
    input_tokens_details: null,
    output_tokens: 0,
    output_tokens_details: null,
    total_tokens: 0,
  }
  response.writeHead(200, { 'content-type': 'text/event-stream' })
  const events = [
    { type: 'response.created', response: { id } },
    { type: 'response.output_item.added', output_index: 0, item },
    { type: 'response.output_item.done', output_index: 0, item },
    { type: 'response.completed', response: { id, usage } },
  ]
  for (const event of events) response.write(`event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`)
  response.end()
}

function itemOf(turn: Turn): object {
  const id = randomUUID()
  if (turn.kind === 'say') {
    return {
      type: 'message',
      role: 'assistant',
      id: `msg_${id}`,
      content: [{ type: 'output_text', text: turn.text }],
    }
  }
  const call = { cmd: turn.command, login: false, yield_time_ms: 25_000 }
  return {
    type: 'function_call',
    id: `fc_${id}`,
    call_id: `call_${id}`,
    name: 'exec_command',
    arguments: JSON.stringify(call),
  }
}

function fail(response: ServerResponse, status: number, message: string): void {
  response.writeHead(status, { 'content-type': 'application/json' })
  response.end(JSON.stringify({ error: { message } }))
}

async function readBody(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = []
  let size = 0
  for await (const chunk of request as AsyncIterable<Buffer>) {
    size += chunk.length
    if (size > MAX_BODY) throw new Error('request too large')
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString('utf8')
}

function listen(server: Server): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen(0, '127.0.0.1', () => resolve())
  })
}
