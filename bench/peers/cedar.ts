/** Cedar's WebAssembly build, with its policies parsed beforehand. */
import { createRequire } from 'node:module'
import { npmPeer } from '../cache.ts'

interface Cedar {
  preparsePolicySet(id: string, policies: { staticPolicies: string }): { type: string }
  statefulIsAuthorized(call: object): { type: string; response?: { decision: string } }
}

const POLICIES = `
permit(principal, action == Action::"request", resource == Host::"api.anthropic.com")
when { context.port == 443 && ["GET", "POST"].contains(context.method) && context.path like "/v1/messages*" };
forbid(principal, action, resource) when { context.label > 2 };
`

/** Asks Cedar whether an agent may send a request, once per call. */
export async function cedarDecision(): Promise<() => void> {
  const dir = await npmPeer('@cedar-policy/cedar-wasm')
  const cedar = createRequire(import.meta.url)(`${dir}/nodejs/cedar_wasm.js`) as Cedar
  const parsed = cedar.preparsePolicySet('bench', { staticPolicies: POLICIES })
  if (parsed.type !== 'success') throw new Error(`Cedar refused the policies: ${JSON.stringify(parsed)}`)
  const call = {
    principal: { type: 'Agent', id: 'bench' },
    action: { type: 'Action', id: 'request' },
    resource: { type: 'Host', id: 'api.anthropic.com' },
    context: { port: 443, method: 'POST', path: '/v1/messages', label: 1 },
    preparsedPolicySetId: 'bench',
    entities: [],
  }
  return () => {
    const answer = cedar.statefulIsAuthorized(call)
    if (answer.response?.decision !== 'allow') throw new Error(`Cedar: ${JSON.stringify(answer)}`)
  }
}
