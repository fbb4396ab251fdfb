/**
 * The kinds of fact that come by the thousand a second, written as JSON at once instead of as objects that are then
 * walked. The words are those of ocsf-classes.ts; a test holds both to the same bytes.
 */
import type { Fact } from './fact.ts'
import { HTTP_ACTIVITY } from './ocsf-classes.ts'

/** An event's parts that its fact alone decides. */
export interface Written {
  /** From `{"class_uid"` to the last attribute of the class, without the closing brace. */
  readonly event: string
  /** JSON of the rule that decided; null when none did. */
  readonly rule: string | null
  /** JSON of `ambit.decision`. */
  readonly decision: string
  /** What OCSF has no word for: fields of `ambit`, without braces. */
  readonly ambit: string
}

const text = JSON.stringify as (value: string | null) => string

/** The parts of `fact`, or null when its kind (or its method) has no quick form. */
export function writeQuick(fact: Fact): Written | null {
  if (fact.k === 'http.request') return request(fact)
  return fact.k === 'http.response' ? response(fact) : null
}

function request(fact: Extract<Fact, { k: 'http.request' }>): Written | null {
  const { flow, method, port, path } = fact
  const activity = HTTP_ACTIVITY[method]
  if (typeof activity !== 'number' || fact.host === '' || fact.rule === '') return null
  const host = text(fact.host)
  const rule = text(fact.rule)
  const at = path.indexOf('?')
  const url = at < 0 ? text(path) : `${text(path.slice(0, at))},"query_string":${text(path.slice(at + 1))}`
  return {
    event:
      `{"class_uid":4002,"category_uid":4,"activity_id":${activity},"type_uid":${400_200 + activity},"severity_id":1,` +
      `"time":${fact.t},"message":${text(`${method} ${fact.host}${path}`.slice(0, 300))},"action_id":1,"disposition_id":1,` +
      `"http_request":{"http_method":"${method}","url":{"hostname":${host},"port":${port},"path":${url}},` +
      `"uid":"${flow}/${fact.request}"},"dst_endpoint":{"hostname":${host},"port":${port}},` +
      `"src_endpoint":{"name":"session"},"traffic":{"bytes_out":${fact.bytes}}`,
    rule,
    decision: '"allow"',
    ambit: `"flow":${flow},"request":${fact.request},"rule":${rule},"credential":${text(fact.credential)},"label":"${fact.label}"`,
  }
}

function response(fact: Extract<Fact, { k: 'http.response' }>): Written {
  const { flow, status, bytesOut, bytesIn, ms } = fact
  return {
    event:
      `{"class_uid":4002,"category_uid":4,"activity_id":99,"type_uid":400299,"severity_id":1,"time":${fact.t},` +
      `"message":"HTTP ${status}, ${bytesOut} bytes out, ${bytesIn} in","action_id":0,"disposition_id":17,` +
      `"activity_name":"Response","http_request":{"uid":"${flow}/${fact.request}"},` +
      `"http_response":{"code":${status},"latency":${ms}},"src_endpoint":{"name":"session"},` +
      `"traffic":{"bytes_out":${bytesOut},"bytes_in":${bytesIn},"bytes":${bytesOut + bytesIn}},"duration":${ms}`,
    rule: null,
    decision: 'null',
    ambit: `"flow":${flow},"request":${fact.request},"scrubbed":${fact.scrubbed}`,
  }
}
