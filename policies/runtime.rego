# Runtime decisions: what the compiled plan leaves open. Asked once per question, with rule ids and facts.
package ambit.runtime

import rego.v1

# No private data to a destination of a lower clearance, and never private data, untrusted content and a new
# destination together without a person: the three that make an exfiltration.
decision := {"effect": "deny", "reason": "runtime.no-rule"} if not input.rule.id

else := {"effect": "deny", "reason": "runtime.label-above-clearance"} if not cleared

else := {"effect": "deny", "reason": "runtime.incomplete"} if not complete

else := {"effect": "allow", "reason": "runtime.approved"} if approved

else := {"effect": "ask", "reason": "runtime.trifecta"} if trifecta

else := {"effect": "allow", "reason": "runtime.no-objection"}

cleared if ranks[input.session.label] <= ranks[input.rule.clearance]

trifecta if {
	ranks[input.session.label] >= ranks.confidential
	input.session.untrusted
	input.session.new_destination
}

approved if concat("", ["destination:", input.action.host]) in input.session.approvals

complete if {
	is_string(input.action.kind)
	is_boolean(input.session.untrusted)
	is_boolean(input.session.new_destination)
	is_array(input.session.approvals)
}

ranks := {"public": 0, "internal": 1, "confidential": 2, "regulated": 3}
