import { readFileSync } from 'node:fs'
import { AmbitError, messageOf } from '../lib/errors.ts'
import { printable } from '../lib/printable.ts'
import { checkPolicies, evaluatePolicy } from '../policy/engine.ts'
import { runPolicyTests } from '../policy/test.ts'
import { type Arguments, type Command, type Context, flag, text, usageError } from './command.ts'

export const command: Command = {
  name: 'policy',
  usage: 'policy check | test | eval RULE [--input FILE]',
  summary: 'check, test and evaluate Rego policy',
  details: `
The shipped modules and those in the configuration directory's policies/ are loaded together; the same files run
unchanged in OPA.
check   parses them
test    runs their test_* rules; exit 1 when one fails
eval    prints the value of a rule, e.g. data.ambit.admission.decision, for the JSON in --input (- for stdin);
        one that is undefined for it prints nothing and exits 1: undefined denies
`,
  options: {
    input: { type: 'string', value: 'FILE', help: 'input document (default {})' },
    json: { type: 'boolean', help: 'test results as JSON' },
  },
  run: async (args, context) => {
    const [verb, rule] = args.words
    if (verb === 'check') {
      for (const module of checkPolicies(context.paths)) context.out(`${module.path}: ok`)
      return 0
    }
    if (verb === 'test') return test(flag(args, 'json'), context)
    if (verb === 'eval' && rule !== undefined) {
      const value = evaluatePolicy(rule, inputOf(args), context.paths)
      if (value === null) return 1
      context.out(value)
      return 0
    }
    throw usageError(command, 'say check, test or eval RULE')
  },
}

function test(json: boolean, context: Context): number {
  const results = runPolicyTests(context.paths)
  if (json) context.out(JSON.stringify(results, null, 2))
  else
    for (const result of results)
      context.out(`${result.passed ? 'ok  ' : 'FAIL'} ${result.name}${result.why ? `: ${result.why}` : ''}`)
  return results.length > 0 && results.every((result) => result.passed) ? 0 : 1
}

function inputOf(args: Arguments): string {
  const input = text(args, 'input')
  if (input === undefined) return '{}'
  try {
    const document = readFileSync(input === '-' ? 0 : input, 'utf8')
    JSON.parse(document)
    return document
  } catch (error) {
    const remedy = 'name a file of JSON, or - for standard input'
    throw new AmbitError('ERR_INPUT_INVALID', `--input ${printable(input)}`, messageOf(error), remedy)
  }
}
