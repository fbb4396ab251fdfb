import { startConnectHeads } from './connect-heads.ts'
import { startDnsStream } from './dns-stream.ts'
import { startHttp1Answers } from './http1-answers.ts'
import { startDifferential } from './http1-differential.ts'
import { startHttp2Frames } from './http2-frames.ts'
import type { LiveTarget } from './live.ts'
import { startTlsRecords } from './tls-records.ts'

/** Targets that need a running gate. */
export const LIVE_TARGETS: Readonly<Record<string, () => Promise<LiveTarget>>> = {
  'http1-differential': startDifferential,
  'http1-answers': startHttp1Answers,
  'http2-frames': startHttp2Frames,
  'connect-heads': startConnectHeads,
  'dns-stream': startDnsStream,
  'tls-records': startTlsRecords,
}
