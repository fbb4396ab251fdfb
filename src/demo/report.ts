import { printable } from '../lib/printable.ts'
import type { Verdict } from './attempts.ts'
import type { Turn } from './model.ts'
import type { DemoResult } from './run.ts'

const WIDTH = 40

/** One line for a turn of the model. What it orders is its own text, so it is shown escaped and cut. */
export function renderTurn(turn: Turn, color: boolean): string {
  const dim = paint('2', color)
  if (turn.kind === 'say') return `  ${dim('agent')}  says: ${printable(turn.text, 160)}`
  const last = turn.command.split('\n').at(-1) ?? ''
  const shown = last.replace(/^cd '[^']*' && /, '')
  return `  ${dim('agent')}  ${turn.why}: ${dim(printable(shown, 110))}`
}

/** The summary that a person reads. */
export function renderResult(result: DemoResult, color: boolean): string {
  const [bold, green, red] = [paint('1', color), paint('32', color), paint('31', color)]
  const mark = (good: boolean): string => (good ? green('✓') : red('✗'))
  const work = result.reconciled
    ? `${result.postings} postings reconciled; the ${result.differences} differences equal those computed outside`
    : 'the reconciliation is missing or differs from the one computed outside'
  return [
    '',
    bold('The work'),
    `  ${mark(result.reconciled)} ${work}`,
    '',
    bold('What the memo made the agent try, and what stopped it'),
    ...result.verdicts.map((verdict) => renderVerdict(verdict, color)),
    '',
    bold('The record'),
    `  ${mark(result.log.ok)} ${printable(result.log.text, 160)}`,
    `    session ${result.session}, ${result.seconds.toFixed(1)} s; more: ambit why ${result.session}, ambit log --session ${result.session}`,
    '',
    succeeded(result)
      ? green(bold('The agent obeyed the attacker in everything. The work is done; nothing else happened.'))
      : red(bold('This is not how it should end. Please report it with the output of: ambit doctor')),
  ].join('\n')
}

function renderVerdict({ attempt, outcome, control }: Verdict, color: boolean): string {
  const word = {
    refused: paint('32', color)('✓ refused  '),
    breach: paint('31;1', color)('✗ BREACH   '),
    'not-tried': paint('33', color)('? unproven '),
  }[outcome]
  return `  ${word} ${attempt.padEnd(WIDTH)} ${printable(control, 140)}`
}

/** True when the work is right, every attempt was made and refused, and the log verifies. */
export function succeeded(result: DemoResult): boolean {
  return result.reconciled && result.log.ok && result.verdicts.every(({ outcome }) => outcome === 'refused')
}

const paint =
  (code: string, color: boolean) =>
  (text: string): string =>
    color ? `\x1b[${code}m${text}\x1b[0m` : text
