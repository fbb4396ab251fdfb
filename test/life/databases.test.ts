/** psql and redis-cli as Debian ships them, inside, and real servers of theirs on the host, which a rule pins. */
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { once } from '../support/case.ts'
import { postgresMissing, redisMissing, startPostgres, startRedis } from '../support/databases.ts'
import { withoutPrograms } from '../support/programs.ts'
import { describe, type SessionRan, Stage } from '../support/stage.ts'
import { type As, unavailable } from '../support/users.ts'

after(() => setTimeout(() => process.exit(), 100).unref())

const cannot = postgresMissing ?? redisMissing ?? withoutPrograms('psql', 'redis-cli')

const servers = once(async () => {
  const [postgres, redis] = await Promise.all([startPostgres('db.internal'), startRedis()])
  return { postgres, redis }
})

/** `name`: what is said before it, so that each can be found in one session's output. */
const say = (name: string, script: string): string => `echo "@@${name}"; ( ${script}\n) 2>&1 </dev/null\n`

const PSQL = 'psql -X -q -t -A -U dev -d postgres'
const SCRIPT = [
  say('query', `${PSQL} -h db.internal -c "select 40 + 2"`),
  say(
    'encrypted',
    `PGSSLMODE=verify-full PGSSLROOTCERT=ca/db.crt ${PSQL} -h db.internal -c "select ssl from pg_stat_ssl where pid = pg_backend_pid()"`,
  ),
  say(
    'in clear',
    `PGSSLMODE=disable ${PSQL} -h db.internal -c "select ssl from pg_stat_ssl where pid = pg_backend_pid()"`,
  ),
  say('much', `${PSQL} -h db.internal -c "select repeat('x', 1000) from generate_series(1, 3000)" | wc -c`),
  say(
    'load',
    `seq 20000 > n; ${PSQL} -h db.internal -c "create temp table t (n int)" -c "\\copy t from n" -c "select sum(n) from t"`,
  ),
  say('slow', `${PSQL} -h db.internal -c "select pg_sleep(3), 'slept'"`),
  say('elsewhere', `${PSQL} -h elsewhere.test -c "select 1"`),
  say('other port', `${PSQL} -h db.internal -p 5433 -c "select 1"`),
  say('loopback', `${PSQL} -h 127.0.0.1 -c "select 1"; echo status $?`),
  say('redis', 'redis-cli -h cache.internal set word here; redis-cli -h cache.internal get word'),
  say(
    'redis pipe',
    `redis-cli -h cache.internal set n 0 >/dev/null; (for i in $(seq 2000); do echo "INCR n"; done) | redis-cli -h cache.internal >/dev/null; redis-cli -h cache.internal get n`,
  ),
  say('redis elsewhere', 'redis-cli -h elsewhere.test ping'),
  say('redis down', 'redis-cli -h down.internal ping'),
].join('')

const session = once(async (as: As) => {
  const { postgres, redis } = await servers(null)
  const pin = (host: string, port: number, to: number) => ({
    host,
    ports: [`${port}/tcp`],
    connect: `127.0.0.1:${to}`,
  })
  const stage = new Stage(as, {
    files: { 'ca/db.crt': postgres.ca },
    spec: {
      network: [
        pin('db.internal', 5432, postgres.port),
        pin('cache.internal', 6379, redis.port),
        pin('down.internal', 6379, 1),
      ],
    },
  })
  const ran = await stage.session(['/bin/bash', '-c', SCRIPT])
  const parts = ran.stdout.split(/^@@/m).slice(1)
  const said = new Map(parts.map((part) => part.split(/\n([^]*)/, 2) as [string, string]))
  const why = JSON.parse((await stage.ambit(['why', '--json'])).stdout) as any[]
  return { ran, said, why, stage }
})

const SAYS: readonly (readonly [name: string, says: RegExp])[] = [
  ['query', /^42\n$/],
  ['encrypted', /^t\n$/],
  ['in clear', /^f\n$/],
  ['much', /^3003000\n$/],
  ['load', /^200010000\n$/],
  ['slow', /slept/],
  ['elsewhere', /FATAL: {2}Refused by Ambit: PostgreSQL passes to a host that a rule pins/],
  ['other port', /FATAL: {2}Refused by Ambit: PostgreSQL passes to a host that a rule pins/],
  // The session's own loopback, where nothing listens: not the host's.
  ['loopback', /Connection refused[^]*status 2/],
  ['redis', /^OK\nhere\n$/],
  ['redis pipe', /^2000\n$/],
  ['redis elsewhere', /Refused by Ambit: Redis passes to a host that a rule pins/],
  ['redis down', /Not sent by Ambit: down\.internal could not be reached/],
]

for (const as of ['user', 'root'] as const) {
  const skip = cannot ?? unavailable(as) ?? false
  for (const [name, says] of SAYS)
    test(`databases: ${name}, as ${as}`, { skip }, async () => {
      const { ran, said } = await session(as)
      assert.match(said.get(name) ?? '', says, describe(ran))
    })

  test(`what passed is on record, by host and bytes, and what was refused has its way out, as ${as}`, {
    skip,
  }, async () => {
    const { ran, why } = await session(as)
    assert.ok(bytesOf(ran, 'db.internal') > 3_000_000, JSON.stringify(ran.summary.hosts))
    assert.equal(bytesOf(ran, 'elsewhere.test'), 0)
    const remedy = why.find(({ target }) => target === 'elsewhere.test:5432')
    assert.match(remedy?.advice ?? '', /ports: \["5432\/tcp"\]` with `connect/, JSON.stringify(why))
  })
}

function bytesOf({ summary }: SessionRan, host: string): number {
  const found = summary.hosts.find((one) => one.host === host)
  return found ? found.bytesIn + found.bytesOut : 0
}

test('without the rules the same clients reach neither server', {
  skip: cannot ?? unavailable('user') ?? false,
}, async () => {
  const stage = new Stage('user')
  const { redis } = await servers(null)
  const ran = await stage.session([
    '/bin/bash',
    '-c',
    `redis-cli -h cache.internal get word; redis-cli -h 127.0.0.1 -p ${redis.port} get word`,
  ])
  assert.doesNotMatch(ran.stdout, /here/, describe(ran))
  const control = await stage.command(['redis-cli', '-p', String(redis.port), 'set', 'word', 'here'])
  assert.equal(control.stdout, 'OK\n', describe(control))
})
