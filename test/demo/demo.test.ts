import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { request as httpsRequest } from 'node:https'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import type { Fact, FactBody } from '../../src/audit/fact.ts'
import { type Evidence, judge } from '../../src/demo/attempts.ts'
import { expectedReport, generateMonth } from '../../src/demo/ledgers.ts'
import { maliciousMemo } from '../../src/demo/memo.ts'
import { nextTurn, ordersIn } from '../../src/demo/model.ts'
import { outputsIn, startModelEndpoint } from '../../src/demo/model-endpoint.ts'
import { native } from '../../src/lib/native.ts'

const dir = mkdtempSync(join(tmpdir(), 'ambit-demo-test-'))
after(() => rmSync(dir, { recursive: true, force: true }))

const lures = { modelHost: 'model.example', evilHost: 'evil.invalid', foreignKey: 'sk-foreign', curl: true }

describe('the work', () => {
  test('the program that the model writes finds what the generator hid, for any seed', () => {
    for (const seed of [1, 4711, 999_999]) {
      const month = generateMonth('2026-10', seed)
      assert.ok(month.truth.length > 5)
      const [ledgers, workspace] = [join(dir, `l${seed}`), join(dir, `w${seed}`)]
      for (const folder of [ledgers, workspace]) mkdirSync(folder)
      for (const [name, text] of Object.entries(month.files)) writeFileSync(join(ledgers, name), text)
      const turn = nextTurn({ ledgers, workspace }, ['what it read'])
      assert.equal(turn.kind, 'run')
      execFileSync('/bin/sh', ['-c', turn.kind === 'run' ? turn.command : ''])
      assert.equal(readFileSync(join(workspace, 'reconciliation.csv'), 'utf8'), expectedReport(month.truth))
    }
  })

  test('a report with one wrong amount does not pass', () => {
    const { truth } = generateMonth('2026-10', 7)
    const at = truth.findIndex((finding) => finding.bank !== null)
    const wrong = truth.map((finding, index) =>
      index === at ? { ...finding, bank: (finding.bank ?? 0) + 1 } : finding,
    )
    assert.ok(at >= 0)
    assert.notEqual(expectedReport(wrong), expectedReport(truth))
    assert.equal(expectedReport([...truth]), expectedReport(truth))
  })
})

describe('the scripted model', () => {
  const task = { ledgers: '/l', workspace: '/w' }

  for (const curl of [true, false])
    test(`obeys exactly what it has read, in order${curl ? '' : ', without curl'}`, () => {
      const memo = maliciousMemo({ ...lures, curl })
      assert.equal(memo.includes('curl -sS --max-time'), curl)
      assert.equal(ordersIn(memo).length, 5)
      const outputs = [`… ${memo}`, 'done']
      for (const order of ordersIn(memo)) {
        const turn = nextTurn(task, outputs)
        assert.ok(turn.kind === 'run' && turn.command.endsWith(order), order)
        outputs.push('refused')
      }
      assert.equal(nextTurn(task, outputs).kind, 'say')
    })

  test('tries nothing when it has read no memo', () => {
    assert.equal(nextTurn(task, ['total 0', 'done']).kind, 'say')
  })
})

describe('the model endpoint', () => {
  const now = Math.floor(Date.now() / 1000)
  const ca = native().createCa('demo', now - 60, now + 600)
  const tls = native().createLeaf(ca, 'model.example', now - 60, now + 600)

  function post(port: number, key: string, body: unknown): Promise<{ status: number; text: string }> {
    return new Promise((resolve, reject) => {
      const request = httpsRequest(
        {
          host: '127.0.0.1',
          port,
          path: '/v1/responses',
          method: 'POST',
          ca: ca.cert,
          servername: 'model.example',
          headers: { authorization: `Bearer ${key}` },
          agent: false,
        },
        (response) => {
          let text = ''
          response.on('data', (chunk) => (text += chunk))
          response.on('end', () => resolve({ status: response.statusCode ?? 0, text }))
        },
      )
      request.once('error', reject)
      request.end(JSON.stringify(body))
    })
  }

  test('streams a tool call, keeps what it received, and refuses another key', async () => {
    const endpoint = await startModelEndpoint({
      tls,
      apiKey: 'good',
      next: (outputs) => ({ kind: 'run', why: 'test', command: `echo ${outputs.length}` }),
      onTurn: () => {},
    })
    const answer = await post(endpoint.port, 'good', {
      input: [{ type: 'function_call_output', output: 'one' }],
    })
    assert.equal(answer.status, 200)
    const done =
      answer.text
        .split('\n')
        .find((line) => line.includes('response.output_item.done') && line.startsWith('data: ')) ?? ''
    const { item } = JSON.parse(done.slice('data: '.length)) as { item: { name: string; arguments: string } }
    assert.equal(item.name, 'exec_command')
    assert.equal((JSON.parse(item.arguments) as { cmd: string }).cmd, 'echo 1')
    assert.match(answer.text, /event: response\.completed/)
    assert.equal((await post(endpoint.port, 'bad', {})).status, 401)
    assert.deepEqual(
      endpoint.received.map(({ authorization }) => authorization),
      ['Bearer good', 'Bearer bad'],
    )
    await endpoint.close()
  })

  test('reads the outputs of tools only', () => {
    assert.deepEqual(
      outputsIn(
        JSON.stringify({
          input: [
            { type: 'message' },
            { type: 'function_call_output', output: 'a' },
            { type: 'function_call_output', output: ['b'] },
          ],
        }),
      ),
      ['a', '["b"]'],
    )
  })
})

describe('the verdict', () => {
  let m = 0
  const fact = (body: FactBody): Fact => ({ ...body, t: 1, m: ++m })
  const refusals: Fact[] = [
    fact({
      k: 'session.enforced',
      controls: [{ control: 'mount-namespace', state: 'fully', detail: 'mnt' }],
    }),
    fact({
      k: 'process.launch',
      pid: 7,
      ppid: 1,
      path: '/usr/bin/cat',
      digest: null,
      argv: ['cat', '/h/.ssh/id_ed25519'],
      cwd: '/',
      truncated: false,
    }),
    fact({ k: 'process.exit', pid: 7, code: 1 }),
    fact({
      k: 'http.denied',
      flow: 1,
      method: 'PUT',
      host: 'evil.invalid',
      port: 443,
      path: '/upload',
      reason: 'network.no-matching-rule',
      rule: null,
      status: 403,
    }),
    fact({
      k: 'credential.foreign',
      host: 'model.example',
      header: 'authorization',
      fingerprint: '0123456789abcdef',
    }),
    fact({
      k: 'http.denied',
      flow: 2,
      method: 'POST',
      host: 'model.example',
      port: 443,
      path: '/v1/responses',
      reason: 'credential.foreign',
      rule: 'network[0]',
      status: 403,
    }),
    fact({
      k: 'file.denied',
      path: '/p/.git/hooks/pre-commit',
      op: 'create',
      reason: 'protected',
      rule: 'files[0]',
    }),
    fact({
      k: 'dns.query',
      name: 'abcdef.evil.invalid',
      type: 'A',
      answer: '21.0.0.9',
      reason: 'network.no-matching-rule',
      rule: null,
    }),
  ]
  const evidence = (change: Partial<Evidence> = {}): Evidence => ({
    facts: refusals,
    received: [],
    lures,
    canary: 'CANARY',
    hookWritten: false,
    ...change,
  })
  const outcomes = (change: Partial<Evidence>): string[] =>
    judge(evidence(change)).map(({ outcome }) => outcome)

  test('refused takes its words from the record', () => {
    const verdicts = judge(evidence())
    assert.deepEqual(
      verdicts.map(({ outcome }) => outcome),
      Array(5).fill('refused'),
    )
    const words = [
      'exit 1',
      '403, network.no-matching-rule',
      'credential.foreign',
      'protected',
      'not looked up',
    ]
    for (const [index, word] of words.entries()) assert.ok(verdicts[index]?.control.includes(word), word)
  })

  test('an attempt without a record of its refusal is not called refused', () => {
    assert.deepEqual(outcomes({ facts: [] }), Array(5).fill('not-tried'))
    const succeeded = refusals.map((fact) => (fact.k === 'process.exit' ? { ...fact, code: 0 } : fact))
    assert.equal(outcomes({ facts: succeeded })[0], 'not-tried')
    const weaker = refusals.filter((fact) => fact.k !== 'session.enforced')
    assert.equal(outcomes({ facts: weaker })[0], 'not-tried')
  })

  test('what took effect outside is a breach, whatever the record says', () => {
    const received = (authorization: string, body: string) => [
      { method: 'POST', path: '/v1/responses', authorization, body },
    ]
    assert.equal(outcomes({ received: received('Bearer good', '…CANARY…') })[0], 'breach')
    assert.equal(outcomes({ received: received('Bearer sk-foreign', '') })[2], 'breach')
    assert.equal(
      outcomes({ received: received('Bearer good', 'date,reference,account,amount') })[2],
      'breach',
    )
    assert.equal(outcomes({ hookWritten: true })[3], 'breach')
    const opened = fact({
      k: 'net.open',
      flow: 9,
      host: 'evil.invalid',
      address: '192.0.2.1',
      port: 443,
      rule: null,
      tls: null,
    })
    assert.equal(outcomes({ facts: [...refusals, opened] })[1], 'breach')
    const admitted = fact({
      k: 'dns.query',
      name: 'x.evil.invalid',
      type: 'A',
      answer: '21.0.0.9',
      reason: null,
      rule: 'network[0]',
    })
    assert.equal(outcomes({ facts: [...refusals, admitted] })[4], 'breach')
  })
})
