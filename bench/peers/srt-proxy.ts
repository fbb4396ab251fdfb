/**
 * srt's TLS-terminating proxy alone, without a sandbox or its socat hops: a program of its own, started by
 * startSrtProxy. Arguments: the package's directory. Prints {"port","ca"} and serves until stdin ends.
 */
import { join } from 'node:path'
import type { Server } from 'node:http'

interface Modules {
  readonly createHttpProxyServer: (options: object) => Server
  readonly createMitmCA: (options: object) => { certPath: string }
}

const dir = process.argv[2] ?? ''
const { createHttpProxyServer } = (await import(join(dir, 'dist/sandbox/http-proxy.js'))) as Modules
const { createMitmCA } = (await import(join(dir, 'dist/sandbox/mitm-ca.js'))) as Modules
const mitmCA = createMitmCA({})
const server = createHttpProxyServer({ filter: () => true, mitmCA, shouldTerminateTLS: () => true })
server.listen(0, '127.0.0.1', () => {
  const address = server.address()
  process.stdout.write(
    `${JSON.stringify({ port: typeof address === 'object' && address?.port, ca: mitmCA.certPath })}\n`,
  )
})
process.stdin.on('end', () => process.exit(0)).resume()
