/** What leads out of the organisation's network, by the caller's environment. */
import { X509Certificate } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { AmbitError, messageOf } from '../lib/errors.ts'

const CERTIFICATE = /-----BEGIN (?:TRUSTED )?CERTIFICATE-----[^-]+-----END (?:TRUSTED )?CERTIFICATE-----/g

/**
 * The proxy and roots, if any: `AMBIT_UPSTREAM_PROXY=http[s]://[user:password@]host:port` and `AMBIT_UPSTREAM_ROOTS=FILE`
 * (PEM). What cannot be used ends the start: passed over, the session would go another way, or none, without a word.
 */
export function wayOut(env: NodeJS.ProcessEnv, cwd: string): { proxy: string | null; roots: string[] } {
  const { AMBIT_UPSTREAM_PROXY: proxy, AMBIT_UPSTREAM_ROOTS: file } = env
  return { proxy: proxy ? checkProxy(proxy) : null, roots: file ? readRoots(resolve(cwd, file)) : [] }
}

function checkProxy(text: string): string {
  const url = URL.parse(text)
  const plain = url !== null && url.pathname === '/' && url.search === '' && url.hash === ''
  if (plain && /^https?:$/.test(url.protocol) && url.hostname !== '' && isDecodable(url)) return text
  // Not shown: it may hold a password.
  throw new AmbitError(
    'ERR_INPUT_INVALID',
    'AMBIT_UPSTREAM_PROXY',
    'it is not the address of an HTTP proxy',
    'set it to http://[USER:PASSWORD@]HOST:PORT, or https:// where the proxy itself is reached over TLS',
  )
}

/** A lone % in a password would fail at every connection. */
function isDecodable({ username, password }: URL): boolean {
  try {
    return decodeURIComponent(username + password) !== null
  } catch {
    return false
  }
}

function readRoots(file: string): string[] {
  try {
    const roots = readFileSync(file, 'latin1').match(CERTIFICATE) ?? []
    if (roots.length === 0) throw new Error('it holds no certificate')
    for (const root of roots) void new X509Certificate(root)
    return [...roots]
  } catch (error) {
    throw new AmbitError(
      'ERR_INPUT_INVALID',
      'AMBIT_UPSTREAM_ROOTS',
      messageOf(error),
      'name a readable PEM file of certificates',
    )
  }
}
