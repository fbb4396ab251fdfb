/** CONNECT through the organisation's own proxy, which the operator configures. */
import { connect as connectTcp, type Socket } from 'node:net'
import { connect as connectTls } from 'node:tls'
import { formatAuthority } from '../lib/host.ts'
import { withDeadline } from './deadline.ts'

const MAX_HEAD = 16_384

/** A tunnel to `host:port` through the proxy at `proxyUrl` (http or https, with optional userinfo). */
export async function connectThroughProxy(
  proxyUrl: string,
  host: string,
  port: number,
  ms: number,
): Promise<Socket> {
  const proxy = new URL(proxyUrl)
  const socket = openProxy(proxy)
  try {
    return await withDeadline(handshake(socket, proxy, formatAuthority(host, port, false)), ms)
  } catch (error) {
    socket.destroy()
    throw error
  }
}

function openProxy(proxy: URL): Socket {
  const host = proxy.hostname.replace(/^\[|\]$/g, '')
  if (proxy.protocol === 'https:')
    return connectTls({ host, port: Number(proxy.port || 443), servername: host, rejectUnauthorized: true })
  return connectTcp({ host, port: Number(proxy.port || 80) })
}

async function handshake(socket: Socket, proxy: URL, authority: string): Promise<Socket> {
  // Port 80 is left out by formatAuthority, but CONNECT always names its port.
  const target = /:\d+$/.test(authority) ? authority : `${authority}:80`
  socket.write(`CONNECT ${target} HTTP/1.1\r\nHost: ${target}\r\n${authorization(proxy)}\r\n`, 'latin1')
  const head = await readHead(socket)
  if (!/^HTTP\/1\.[01] 200[ \r]/.test(head)) throw new Error(`the proxy answered ${head.slice(0, 64)}`)
  return socket
}

function authorization(proxy: URL): string {
  if (!proxy.username) return ''
  const pair = `${decodeURIComponent(proxy.username)}:${decodeURIComponent(proxy.password)}`
  return `Proxy-Authorization: Basic ${Buffer.from(pair).toString('base64')}\r\n`
}

/** Reads up to the empty line and leaves the socket paused. The peer speaks second in TLS, so nothing may follow. */
function readHead(socket: Socket): Promise<string> {
  return new Promise((resolve, reject) => {
    let head = ''
    const onData = (chunk: Buffer): void => {
      head += chunk.toString('latin1')
      const end = head.indexOf('\r\n\r\n')
      if (end === -1 && head.length <= MAX_HEAD) return
      socket.pause()
      socket.off('data', onData)
      if (end === -1 || end + 4 !== head.length) reject(new Error('the proxy sent more than a head'))
      else resolve(head)
    }
    socket.on('data', onData)
    socket.once('error', reject)
    socket.once('close', () => reject(new Error('the proxy closed the connection')))
  })
}
