/** The summary a person reads. Every name in it may come from the agent, so each goes through `printable`. */
import { printable } from '../lib/printable.ts'
import { formatSize } from '../lib/units.ts'
import type { Screen } from './front.ts'
import type { Summary } from './end.ts'
import { isRisky } from '../view/review.ts'
import { pathOf } from './review.ts'

const SHOWN = 8
const counted = (count: number, what: string): string => `${count} ${what}${count === 1 ? '' : 's'}`

/** Says at the end, on stderr, what the session did. */
export function printSummary(summary: Summary, screen: Screen): void {
  screen.err(renderSummary(summary, screen.color))
}

/** What also a quiet run says: that Ambit ended it, and why; that nobody has signed its record yet. */
export function printStop({ session, outcome, reason, log }: Summary, screen: Screen): void {
  if (outcome !== 'ended' && reason !== null)
    screen.err(`ambit: session ${session} ${outcome}: ${printable(reason)}; see ambit why ${session}`)
  else if (log === null) screen.err(`ambit: session ${session} ended: ${UNSIGNED}`)
}

const UNSIGNED = 'recorded; signing waits for ambitd: the next ambit command does it'

/** The summary as a person reads it: totals, hosts, changes, refusals, and what to do next. */
function renderSummary(summary: Summary, color: boolean): string {
  const paint = (code: string, text: string): string => (color ? `\x1b[${code}m${text}\x1b[0m` : text)
  const bold = (text: string): string => paint('1', text)
  const lines = [
    '',
    bold(`ambit: session ${summary.session} ${summary.outcome}, exit ${summary.exit}`) +
      (summary.reason ? paint('31', ` (${printable(summary.reason)})`) : ''),
    `  ${counted(summary.commandsTotal, 'command')}, ${counted(summary.filesRead, 'file')} read, ${summary.filesChangedTotal} changed, ` +
      `${formatSize(summary.bytesOut)} out`,
  ]
  for (const host of summary.hosts.slice(0, SHOWN)) {
    lines.push(
      `  → ${printable(host.host, 100)}: ${counted(host.requests, 'request')}, ${formatSize(host.bytesOut)} out, ${formatSize(host.bytesIn)} in`,
    )
  }
  if (summary.refusalsTotal > 0) {
    lines.push(
      bold(paint('33', `  ${summary.refusalsTotal} refused`)) + ` (ambit why ${summary.session} says more)`,
    )
    for (const refusal of summary.refusals.slice(0, SHOWN)) {
      const times = refusal.count > 1 ? ` ×${refusal.count}` : ''
      lines.push(
        `    ✗ ${refusal.kind} ${printable(refusal.target, 100)}: ${printable(refusal.reason, 80)}${times}`,
      )
    }
    if (summary.refusals.length > SHOWN) lines.push(`    … and ${summary.refusals.length - SHOWN} more`)
  }
  if (summary.pending.length > 0) {
    const wait = summary.pending.length === 1 ? 'change waits' : 'changes wait'
    lines.push(bold(`  ${summary.pending.length} ${wait} for review: ambit review ${summary.session}`))
    for (const change of summary.pending.filter(isRisky).slice(0, SHOWN)) {
      const why = change.executableConfig
        ? 'can run code on your machine'
        : `leads out, to ${printable(change.target ?? '', 120)}`
      lines.push(paint('31', `    ! ${change.kind} ${printable(pathOf(change), 120)} ${why}`))
    }
  }
  lines.push(
    summary.log
      ? `  recorded and signed: ${summary.log.size} events in the log`
      : paint('33', `  ${UNSIGNED}`),
  )
  return `${lines.join('\n')}\n`
}
