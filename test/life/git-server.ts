/** Git's own server program behind HTTPS, as forges run it (git-http-backend(1)). */
import { execFileSync, spawn } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import type { Answer } from '../support/upstream.ts'

/** Makes an empty bare repository `name` below `root` that anybody may push to. */
export function makeBare(root: string, name: string): void {
  mkdirSync(root, { recursive: true })
  execFileSync('git', ['init', '--quiet', '--bare', join(root, name)])
  execFileSync('git', ['-C', join(root, name), 'config', 'http.receivepack', 'true'])
}

/** Serves the repositories below `root`. */
export function serveGit(root: string): Answer {
  return (request, response) => {
    const url = new URL(request.url, 'https://x')
    const child = spawn('git', ['http-backend'], {
      env: {
        PATH: process.env.PATH,
        GIT_PROJECT_ROOT: root,
        GIT_HTTP_EXPORT_ALL: '1',
        // The repositories may belong to another user than the one who serves them.
        GIT_CONFIG_COUNT: '1',
        GIT_CONFIG_KEY_0: 'safe.directory',
        GIT_CONFIG_VALUE_0: '*',
        REQUEST_METHOD: request.method,
        PATH_INFO: url.pathname,
        QUERY_STRING: url.search.slice(1),
        CONTENT_TYPE: String(request.headers['content-type'] ?? ''),
        CONTENT_LENGTH: String(request.bytes),
        HTTP_CONTENT_ENCODING: String(request.headers['content-encoding'] ?? ''),
        GIT_PROTOCOL: String(request.headers['git-protocol'] ?? ''),
      },
      stdio: ['pipe', 'pipe', 'ignore'],
    })
    child.stdin.end(Buffer.from(request.body, 'latin1'))
    const chunks: Buffer[] = []
    child.stdout.on('data', (chunk: Buffer) => chunks.push(chunk))
    child.once('close', () => {
      const whole = Buffer.concat(chunks)
      const end = whole.indexOf('\r\n\r\n')
      const lines = whole.toString('latin1', 0, end).split('\r\n')
      const fields = lines.map((line) => line.split(/:\s*/, 2) as [string, string])
      const status = Number.parseInt(fields.find(([name]) => name === 'Status')?.[1] ?? '200', 10)
      response.writeHead(status, Object.fromEntries(fields.filter(([name]) => name !== 'Status')))
      response.end(whole.subarray(end + 4))
    })
  }
}
