/** Writes docs/performance.md: each figure between its own markers, so that one can be measured again alone. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { type Column, type Figure, type Section, short, type Table } from './figure.ts'
import type { Machine } from './machine.ts'
import { ratio, spread } from './stats.ts'

const HEAD = `# Performance

Made by \`./dev bench [NAME]\`; edit \`bench/\`, not this page. Each figure stands beside its peers, measured in the same
run on the same machine. In every round each contender runs once, in a rotating order; the ratio is taken within the
round. A cell is **median** (p10–p90) of the rounds, then the median ratio. Trust the ratios: other work may have run on
the machine, the load average says how much. What could not be measured says so, with the reason.
`

/** Puts one figure's section into the page at `file`, leaving the others as they are. */
export function writeSection(file: string, figure: Figure, section: Section, machine: Machine): void {
  const page = existsSync(file) ? readFileSync(file, 'utf8') : HEAD
  const block = `<!-- bench:${figure.name} -->\n${sectionText(figure, section, machine)}<!-- /bench:${figure.name} -->\n`
  const old = new RegExp(`<!-- bench:${figure.name} -->\\n[^]*?<!-- /bench:${figure.name} -->\\n`)
  writeFileSync(file, old.test(page) ? page.replace(old, () => block) : `${page.trimEnd()}\n\n${block}`)
}

function sectionText(figure: Figure, section: Section, machine: Machine): string {
  return [
    `## ${figure.title}`,
    '',
    `*${machine.date}; commit ${machine.commit}; Linux ${machine.kernel}; ${machine.cores} × ${machine.cpu}; Node ${machine.node}; load average ${machine.load}.*`,
    '',
    section.how.trim(),
    '',
    ...section.tables.flatMap((table) => [...tableLines(table), '']),
    ...goalLines(section),
    ...(section.limits.length > 0
      ? ['**What limits it**', '', ...section.limits.map((line) => `- ${line}`), '']
      : []),
  ].join('\n')
}

function tableLines(table: Table): string[] {
  const names = [...new Set(table.columns.flatMap((column) => column.series.map(({ name }) => name)))]
  const missing = names.flatMap((name) => reasons(table, name))
  return [
    `**${table.caption}**`,
    '',
    `| | ${table.columns.map((column) => `${column.title} (${column.unit}, n=${rounds(column)})`).join(' | ')} |`,
    `| --- | ${table.columns.map(() => '---').join(' | ')} |`,
    ...names.map(
      (name) =>
        `| ${name} | ${table.columns.map((column) => cell(column, name, table.reference)).join(' | ')} |`,
    ),
    ...(missing.length > 0 ? ['', ...missing] : []),
  ]
}

const rounds = (column: Column): number =>
  Math.max(0, ...column.series.map((series) => ('values' in series ? series.values.length : 0)))

function cell(column: Column, name: string, reference: string | null): string {
  const series = column.series.find((one) => one.name === name)
  if (!series) return '–'
  if ('failure' in series) return 'not measured'
  const { p10, p50, p90 } = spread(series.values)
  const text = `**${short(p50)}** (${short(p10)}–${short(p90)})`
  const base = column.series.find((one) => one.name === reference)
  if (!base || base === series || !('values' in base)) return text
  return `${text} ${short(ratio(series.values, base.values).p50)}×`
}

/** Why cells of `name` are empty, each reason once. */
function reasons(table: Table, name: string): string[] {
  const failed = new Map<string, string[]>()
  for (const { title, series } of table.columns) {
    const one = series.find((other) => other.name === name)
    if (one && 'failure' in one) failed.set(one.failure, [...(failed.get(one.failure) ?? []), title])
  }
  return [...failed].map(([reason, titles]) => {
    const where = titles.length === table.columns.length ? '' : ` (${titles.join('; ')})`
    return `- not measured: ${name}${where}: ${escaped(reason)}`
  })
}

function goalLines(section: Section): string[] {
  if (section.goals.length === 0) return []
  return [
    '| goal | measured | met |',
    '| --- | --- | --- |',
    ...section.goals.map(
      ({ text, got, met }) => `| ${text} | ${got} | ${met === null ? '?' : met ? 'yes' : '**no**'} |`,
    ),
    '',
  ]
}

const escaped = (text: string): string => text.replaceAll('|', '\\|').replaceAll(/\s+/g, ' ').slice(0, 200)
