/** Where a session meets its user: this process's own terminal, or another process that stands at it. */
import { createInterface } from 'node:readline/promises'
import type { Plan } from '../profile/plan.ts'
import { type StartLauncher, spawnLauncher } from '../runtime/launcher.ts'
import type { SessionRequest } from './request.ts'

/** Where texts go. */
export interface Screen {
  readonly color: boolean
  err(text: string): void
}

export interface Front extends Screen {
  /** The agent gets a terminal: stdin and stdout are one. */
  readonly terminal: boolean
  /** Shows `text` and asks whoever sits there; null where nobody can answer. */
  readonly ask: ((text: string, question: string) => Promise<boolean>) | null
  readonly startLauncher: StartLauncher
  /** What `request` needs of its own process (a descriptor by name), no other can give. @throws Declined */
  accept(request: SessionRequest, plan: Plan): void
}

/** A warm host cannot serve this session as its own process would: the caller starts it cold. Nothing has happened. */
export class Declined extends Error {}

/** The front of a process that was started at the terminal itself. */
export function ownFront(screen: Screen): Front {
  return {
    color: screen.color,
    err: (text) => screen.err(text),
    terminal: Boolean(process.stdin.isTTY && process.stdout.isTTY),
    ask: process.stdin.isTTY
      ? (text, question) => {
          screen.err(text)
          return askYes(question)
        }
      : null,
    startLauncher: spawnLauncher,
    accept: () => undefined,
  }
}

async function askYes(question: string): Promise<boolean> {
  const reader = createInterface({ input: process.stdin, output: process.stderr })
  try {
    return /^y(es)?$/i.test((await reader.question(question)).trim())
  } finally {
    reader.close()
  }
}
