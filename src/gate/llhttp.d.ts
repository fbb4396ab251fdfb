/** The part of Node's binding of llhttp that link.ts and inlet.ts use; @types/node leaves it out. */
declare module 'node:_http_common' {
  export class HTTPParser {
    static readonly REQUEST: number
    static readonly RESPONSE: number
    static readonly kLenientNone: number
    static readonly kOnMessageBegin: 0
    static readonly kOnHeaders: 1
    static readonly kOnHeadersComplete: 2
    static readonly kOnBody: 3
    static readonly kOnMessageComplete: 4
    0: () => void
    1: (headers: string[], url: string) => void
    2: (
      major: number,
      minor: number,
      headers: string[] | undefined,
      method: number | undefined,
      url: string | undefined,
      status: number,
      statusText: string,
      upgrade: boolean,
      keepAlive: boolean,
    ) => number
    3: (chunk: Buffer) => void
    4: () => void
    /** `resource` is what async hooks see; `maxHeaderSize` in bytes. */
    initialize(type: number, resource: object, maxHeaderSize: number, lenient: number): void
    execute(bytes: Buffer): number | Error
    finish(): number | Error | undefined
    close(): void
  }
}
