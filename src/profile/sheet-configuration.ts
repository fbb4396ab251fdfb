/** The sheet's lines about agent and editor configuration that the project brings (P-12). */
import type { SheetLine } from './sheet.ts'

export interface ConfigurationFile {
  /** Absolute; the project's authors chose the name. */
  readonly path: string
  /** Lower-case hex. */
  readonly sha256: string
  /** Against what was accepted last for this project; `first`: nothing was. */
  readonly state: 'same' | 'changed' | 'added' | 'removed' | 'first'
}

/** Changed files named one by one; more than these are counted. */
const NAMED = 40

/** What changed since the last yes is a risk of its own: it was trusted once, for what it said then. */
export function configurationLines(files: readonly ConfigurationFile[]): SheetLine[] {
  const of = (state: ConfigurationFile['state']) => files.filter((file) => file.state === state)
  const differing = files.filter(({ state }) => state !== 'same' && state !== 'first')
  return [
    ...differing
      .slice(0, NAMED)
      .map((file) =>
        line('risk', `agent or editor configuration ${file.state} since you last accepted: ${named(file)}`),
      ),
    ...(differing.length > NAMED
      ? [line('risk', `and ${differing.length - NAMED} more files of agent or editor configuration differ`)]
      : []),
    ...(of('first').length > 0
      ? [line('note', `the project brings agent or editor configuration: ${list(of('first'))}`)]
      : []),
    ...(of('same').length > 0
      ? [line('fact', `agent and editor configuration as you last accepted it: ${of('same').length} files`)]
      : []),
  ]
}

const named = ({ path, sha256 }: ConfigurationFile): string => `${path} (sha256 ${sha256.slice(0, 12)})`

const list = (files: readonly ConfigurationFile[]): string =>
  files.slice(0, 8).map(named).join(', ') + (files.length > 8 ? ` and ${files.length - 8} more` : '')

const line = (weight: SheetLine['weight'], text: string): SheetLine => ({
  weight,
  section: 'files',
  rule: null,
  text,
})
