/** Declares the soak as a test, for a length of time; it needs a network of its own. */
import { after, test } from 'node:test'
import { labMissing } from './lab.ts'
import { goodHost } from './net-stage.ts'
import { soak, writeCa } from './soak.ts'
import { Stage } from './stage.ts'

export function soakFor(ms: number): void {
  test(`sessions soak for ${ms / 60_000} minutes and nothing grows`, {
    skip: labMissing ?? false,
    timeout: ms + 240_000,
  }, async (t) => {
    const { good } = await goodHost()
    const stage = new Stage('user', { files: { '.env': 'SECRET=1' } })
    const spec = {
      isolation: { runtime: 'os-sandbox', limits: 'partly', wallclock: '1h' },
      hide: ['**/.env'],
      network: [{ host: 'good.test', ca: writeCa(stage, good.ca) }],
    }
    const { rounds, sessions, growth } = await soak(stage, spec, ms)
    t.diagnostic(`${rounds} rounds, ${sessions} sessions beside them; growth: ${growth}`)
  })
}

after(() => setTimeout(() => process.exit(), 100).unref())
