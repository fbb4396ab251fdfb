/** DNS over TCP (RFC 7766) as it arrives: cut anywhere, with any lengths. Every answer is whole, small and for a question. */
import { connect } from 'node:net'
import { planOf, rule, startBench } from '../test/gate/harness.ts'
import { dnsQuery } from '../test/fixtures/servers/dns-message.ts'
import { demand, type LiveTarget } from './live.ts'

const framed = (message: Buffer): Buffer =>
  Buffer.concat([Buffer.from([message.length >> 8, message.length & 0xff]), message])

export async function startDnsStream(): Promise<LiveTarget> {
  let asked = 0
  let reached = 0
  const bench = await startBench(planOf([rule({ host: 'good.test' }), rule({ host: '*.wild.test' })]), {
    resolve: async () => {
      asked++
      return []
    },
  })
  const send = (input: Buffer): Promise<Buffer> =>
    new Promise((resolve) => {
      const socket = connect({ host: '127.0.0.1', port: bench.ports.dnsTcp })
      const chunks: Buffer[] = []
      const done = (): void => {
        clearTimeout(timer)
        socket.destroy()
        resolve(Buffer.concat(chunks))
      }
      const timer = setTimeout(done, 40)
      socket.on('error', done)
      socket.on('close', done)
      socket.on('connect', () => {
        const cut = input.length >> 1
        socket.write(input.subarray(0, cut))
        setImmediate(() => socket.write(input.subarray(cut)))
      })
      socket.on('data', (bytes) => chunks.push(bytes))
    })
  return {
    seeds: [
      dnsQuery('good.test'),
      dnsQuery('a.wild.test', 28),
      dnsQuery('evil.test', 16),
      dnsQuery(''),
    ].flatMap((query) => [
      framed(query),
      Buffer.concat([framed(query), framed(query), Buffer.from([0, 99])]),
    ]),
    run: async (inputs) => {
      const answers = await Promise.all(inputs.map(send))
      for (const [index, answer] of answers.entries()) checkAnswers(answer, inputs[index] ?? Buffer.alloc(0))
      demand((await bench.lookup('good.test')).addresses.length === 1, 'names resolve on')
      demand(asked === 0, 'no name left the machine')
      reached += answers.filter((answer) => answer.length > 0).length
      bench.facts.length = 0
    },
    reached: () => reached,
    close: () => bench.close(),
  }
}

function checkAnswers(stream: Buffer, input: Buffer): void {
  const questions = new Set<number>()
  for (let at = 0; at + 4 <= input.length; at += 2 + input.readUInt16BE(at))
    questions.add(input.readUInt16BE(at + 2))
  for (let rest = stream; rest.length >= 2; ) {
    const length = rest.readUInt16BE(0)
    const message = rest.subarray(2, 2 + length)
    demand(length >= 12 && length < 1024, `an answer of ${length} bytes`)
    demand(message.length < 12 || (message.readUInt16BE(2) & 0x8000) !== 0, 'an answer says that it is one')
    demand(message.length < 2 || questions.has(message.readUInt16BE(0)), 'an answer has the id of a question')
    rest = rest.subarray(2 + length)
  }
}
