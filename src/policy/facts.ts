/** What Rego sees of a plan: ids and facts, nothing to match globs against and no secret's source. */
import { LABELS, type Plan } from '../profile/plan.ts'

/** The facts of `plan` under the names that policies use. */
export function planFacts(plan: Plan) {
  return {
    name: plan.profile.name,
    digest: plan.profile.digest,
    origin: plan.profile.origin,
    runtime: plan.isolation.runtime,
    limits: plan.isolation.limits,
    /** Highest of all roots. */
    label: LABELS[Math.max(0, ...plan.roots.map((root) => LABELS.indexOf(root.label)))] ?? 'public',
    roots: plan.roots.map(({ id, path, access, via, label, variable }) => ({
      id,
      path,
      access,
      via,
      label,
      variable,
    })),
    hosts: plan.network.map((rule) => ({
      id: rule.id,
      host: rule.host,
      ports: rule.ports,
      methods: rule.methods,
      any_path: rule.paths === null,
      clearance: rule.clearance,
      credential: rule.credential,
      inspect: rule.inspect,
      plain: rule.plain,
      raw: rule.raw,
      pinned: rule.connect !== null,
    })),
    upload: plan.upload,
    credentials: plan.credentials.map((credential) => credential.name),
    desktop: plan.desktop,
    approvals: plan.approvals,
  }
}
