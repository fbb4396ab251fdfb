/** Declares the soak as a test, for a length of time; it needs a network of its own. */
import { after, test } from 'node:test'
import { claimAddress, labMissing } from './lab.ts'
import { recordDns } from './dns.ts'
import { soak, writeCa } from './soak.ts'
import { Stage } from './stage.ts'
import { serveHttps } from './upstream.ts'

const PUBLIC = '93.184.216.34'

export function soakFor(ms: number): void {
  test(`sessions soak for ${ms / 60_000} minutes and nothing grows`, {
    skip: labMissing ?? false,
    timeout: ms + 240_000,
  }, async (t) => {
    claimAddress(PUBLIC)
    const dns = await recordDns()
    dns.zone.set('good.test', [PUBLIC])
    const good = await serveHttps(['good.test'], { address: PUBLIC, port: 443 })
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
