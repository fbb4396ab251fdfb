package ambit.runtime_test

import rego.v1

import data.ambit.runtime

question := {
	"action": {"kind": "http.request", "host": "api.example.com"},
	"rule": {"id": "network[0]", "clearance": "confidential"},
	"session": {"label": "confidential", "untrusted": false, "new_destination": true, "approvals": []},
}

with_session(change) := object.union(question, {"session": object.union(question.session, change)})

test_allows if runtime.decision == {"effect": "allow", "reason": "runtime.no-objection"} with input as question

test_denies_without_a_rule if runtime.decision.effect == "deny" with input as object.union(question, {"rule": null})

test_denies_empty_input if runtime.decision.effect == "deny" with input as {}

test_denies_a_label_above_the_clearance if {
	d := runtime.decision with input as with_session({"label": "regulated"})
	d == {"effect": "deny", "reason": "runtime.label-above-clearance"}
}

test_denies_an_unknown_label if runtime.decision.effect == "deny" with input as with_session({"label": "secret"})

test_asks_for_the_trifecta if {
	d := runtime.decision with input as with_session({"untrusted": true})
	d == {"effect": "ask", "reason": "runtime.trifecta"}
}

test_asks_only_for_all_three if {
	runtime.decision.effect == "allow" with input as with_session({"untrusted": true, "new_destination": false})
	runtime.decision.effect == "allow" with input as with_session({"untrusted": true, "label": "internal"})
}

test_approval_answers_it if {
	d := runtime.decision with input as with_session({"untrusted": true, "approvals": ["destination:api.example.com"]})
	d == {"effect": "allow", "reason": "runtime.approved"}
	other := runtime.decision with input as with_session({"untrusted": true, "approvals": ["destination:example.com"]})
	other.effect == "ask"
}

test_no_approval_raises_a_clearance if {
	d := runtime.decision with input as with_session({"label": "regulated", "approvals": ["destination:api.example.com"]})
	d.effect == "deny"
}
