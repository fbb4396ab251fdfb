/** CONNECT through the organisation's own proxy, which the operator configures. */
import { connect as connectTcp, isIP, type Socket } from 'node:net'
import { connect as connectTls, type SecureContext } from 'node:tls'
import { formatAuthority } from '../lib/host.ts'
import { withDeadline } from './deadline.ts'

const MAX_HEAD = 16_384

/** The proxy was reached and said no. */
export class ProxyRefusal extends Error {
  readonly status: number

  constructor(status: number) {
    super(`the proxy answered ${status}`)
    this.status = status
  }
}

/**
 * A tunnel to `host:port` through the proxy at `proxyUrl` (http or https, with optional userinfo).
 *
 * @param roots whom to trust where the proxy itself is reached over TLS
 * @throws ProxyRefusal, or what kept the proxy from being reached
 */
export async function connectThroughProxy(
  proxyUrl: string,
  host: string,
  port: number,
  ms: number,
  roots: () => SecureContext,
): Promise<Socket> {
  const proxy = new URL(proxyUrl)
  const socket = openProxy(proxy, roots)
  try {
    return await withDeadline(handshake(socket, proxy, formatAuthority(host, port, false)), ms)
  } catch (error) {
    socket.destroy()
    throw error
  }
}

function openProxy(proxy: URL, roots: () => SecureContext): Socket {
  const host = proxy.hostname.replace(/^\[|\]$/g, '')
  if (proxy.protocol === 'https:')
    return connectTls({
      host,
      port: Number(proxy.port || 443),
      servername: isIP(host) ? '' : host,
      rejectUnauthorized: true,
      secureContext: roots(),
    })
  return connectTcp({ host, port: Number(proxy.port || 80) })
}

async function handshake(socket: Socket, proxy: URL, authority: string): Promise<Socket> {
  // Port 80 is left out by formatAuthority, but CONNECT always names its port.
  const target = /:\d+$/.test(authority) ? authority : `${authority}:80`
  socket.write(`CONNECT ${target} HTTP/1.1\r\nHost: ${target}\r\n${authorization(proxy)}\r\n`, 'latin1')
  const head = await readHead(socket)
  const status = Number(/^HTTP\/1\.[01] (\d{3})[ \r]/.exec(head)?.[1])
  if (status === 200) return socket
  throw status ? new ProxyRefusal(status) : new Error('what answers is no HTTP proxy')
}

function authorization(proxy: URL): string {
  if (!proxy.username) return ''
  const pair = `${decodeURIComponent(proxy.username)}:${decodeURIComponent(proxy.password)}`
  return `Proxy-Authorization: Basic ${Buffer.from(pair).toString('base64')}\r\n`
}

/**
 * Reads up to the empty line and leaves the socket paused. The peer speaks second in TLS, so nothing may follow; but a
 * refusal brings its page.
 */
function readHead(socket: Socket): Promise<string> {
  return new Promise((resolve, reject) => {
    let head = ''
    const onData = (chunk: Buffer): void => {
      head += chunk.toString('latin1')
      const end = head.indexOf('\r\n\r\n')
      if (end === -1 && head.length <= MAX_HEAD) return
      socket.pause()
      socket.off('data', onData)
      const alone = end + 4 === head.length || !head.startsWith('200', 9)
      if (end === -1 || !alone) reject(new Error('the proxy sent more than a head'))
      else resolve(head)
    }
    socket.on('data', onData)
    socket.once('error', reject)
    socket.once('close', () => reject(new Error('the proxy closed the connection')))
  })
}
