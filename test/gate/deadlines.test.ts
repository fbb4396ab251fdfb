/** Q-03 behind the head: who is idle, sends or reads slowly is ended by a deadline, and who goes on is not. */
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import type { TLSSocket } from 'node:tls'
import type { Deadlines } from '../../src/gate/options.ts'
import { startUpstream } from '../fixtures/servers/upstream.ts'
import { planOf, rule, startBench, testCa, tlsTo, until } from './harness.ts'

const HOST = 'slow.example.com'
const OPAQUE = 'opaque.example.com'
const IDLE = 1200
/** Goes on for longer than a pause may be. */
const STEPS = 8
const STEP = 300
/** The gate looks once a second, on a machine with other work. */
const SLACK = 5000

const EVENTS = { 'content-type': 'text/event-stream' }

/** Large answers under way: a client that does not read hears nothing of the end either. */
let large = 0

const upstream = await startUpstream({
  tls: testCa.issue([HOST, OPAQUE]),
  handle: ({ url }, response) => {
    const path = url?.split('?')[0]
    if (path === '/large') {
      large++
      response.on('close', () => large--)
      response.writeHead(200)
      const more = (): void => {
        while (response.write(Buffer.alloc(1 << 16)));
      }
      response.on('drain', more)
      more()
    } else if (path === '/stream' || path === '/pause') {
      response.writeHead(200, EVENTS)
      response.write('data: 0\n\n')
      const timer = setInterval(() => response.write('data: 1\n\n'), path === '/pause' ? 1 << 30 : STEP)
      response.on('close', () => clearInterval(timer))
    } else return false
    return true
  },
})
after(() => upstream.close())

type Limits = Partial<Deadlines>

async function bench(limits: Limits) {
  const connect = { address: '127.0.0.1', port: upstream.port }
  const plan = planOf([rule({ host: HOST, connect }), rule({ host: OPAQUE, connect, inspect: false })])
  const made = await startBench(plan, { deadlines: limits })
  after(() => made.close())
  return made
}

/** What a client met: how long until its end, or null when it lives `patience` ms. */
async function ended(socket: TLSSocket, patience: number): Promise<number | null> {
  const started = performance.now()
  const over = new Promise<number>((resolve) =>
    socket.once('close', () => resolve(performance.now() - started)),
  )
  return await Promise.race([over, sleep(patience).then(() => null)])
}

async function client(limits: Limits, host: string, first: string): Promise<TLSSocket> {
  const socket = await tlsTo(await bench(limits), host, { rejectUnauthorized: false })
  socket.on('error', () => undefined)
  await new Promise((resolve) => socket.once('secureConnect', resolve))
  if (first) socket.write(first)
  return socket
}

const head = (line: string, more = ''): string => `${line} HTTP/1.1\r\nHost: ${HOST}\r\n${more}\r\n`

/** Asserts that the deadline ends a client that stops, and no earlier. */
async function endsWhenIdle(socket: TLSSocket): Promise<void> {
  const ms = await ended(socket, IDLE + SLACK)
  assert.ok(ms !== null, 'it is still open')
  assert.ok(ms > IDLE / 2, `cut off after ${ms} ms`)
  socket.destroy()
}

/** Control: asserts that a client lives that does something all the time, for longer than it may do nothing. */
async function livesWhileItGoesOn(socket: TLSSocket, step: () => void): Promise<void> {
  for (let count = 0; count < STEPS; count++) {
    step()
    assert.equal(await ended(socket, STEP), null, `cut off at step ${count}`)
  }
  socket.destroy()
}

test('Q-03: a tunnel in which nothing moves is ended, one in which a byte moves is not', async () => {
  const limits = { streamIdle: IDLE }
  const busy = await client(limits, OPAQUE, head('GET /stream'))
  busy.resume()
  await livesWhileItGoesOn(busy, () => undefined)
  const idle = await client(limits, OPAQUE, '')
  idle.resume()
  await endsWhenIdle(idle)
})

test('Q-03: an upload that stops is ended, a slow one is not', async () => {
  const limits = { response: IDLE }
  const upload = head('POST /echo', 'Content-Length: 1000\r\n')
  const slow = await client(limits, HOST, upload)
  slow.resume()
  await livesWhileItGoesOn(slow, () => slow.write('x'))
  const stopped = await client(limits, HOST, `${upload}x`)
  stopped.resume()
  await endsWhenIdle(stopped)
})

test('Q-03: an answer that its client does not read is ended, one that is read slowly is not', async () => {
  const limits = { idle: IDLE }
  const reader = await client(limits, HOST, head('GET /large'))
  await livesWhileItGoesOn(reader, () => {
    assert.ok(reader.readable)
    reader.read()
  })
  await until(() => large === 0)
  const stopped = await client(limits, HOST, head('GET /large'))
  await until(() => large > 0)
  await until(() => large === 0, IDLE + SLACK)
  stopped.destroy()
})

test('Q-03: an event stream may pause for longer than an answer, and ends by its own deadline', async () => {
  const waiting = await client({ idle: IDLE, streamIdle: 60_000 }, HOST, head('GET /pause'))
  waiting.resume()
  assert.equal(await ended(waiting, IDLE * 3), null, 'control: the deadline of an answer is not its')
  waiting.destroy()
  const idle = await client({ streamIdle: IDLE }, HOST, head('GET /pause'))
  idle.resume()
  await endsWhenIdle(idle)
})

test('Q-03: an exchange that never pauses ends in the end', async () => {
  const dripping = await client({ total: 2 * IDLE }, HOST, head('GET /stream'))
  dripping.resume()
  const ms = await ended(dripping, 2 * IDLE + SLACK)
  assert.ok(ms !== null && ms > IDLE, `after ${ms} ms`)
})
