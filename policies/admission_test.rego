package ambit.admission_test

import rego.v1

import data.ambit.admission

writer := {
	"user": {"name": "alice", "uid": 1000},
	"device": {"hostname": "ledger-7", "os": "linux"},
	"agent": {"name": "codex", "version": "1.0.0", "digest": "aa", "path": "/usr/bin/codex"},
	"profile": {
		"name": "writer",
		"origin": "shipped",
		"label": "internal",
		"roots": [{"id": "files[0]", "path": "/home/alice/ledger", "access": "review", "via": "view", "label": "internal"}],
		"hosts": [{"id": "network[0]", "host": "api.example.com", "inspect": true, "clearance": "confidential"}],
		"desktop": {"clipboard": "deny", "display": "deny", "audio": "deny"},
	},
	"session": {"accepted": true},
}

with_profile(change) := object.union(writer, {"profile": object.union(writer.profile, change)})

as_root(doc) := object.union(doc, {"user": {"name": "root", "uid": 0}})

root(change) := [object.union(writer.profile.roots[0], change)]

test_allows_writer if {
	admission.decision == {"effect": "allow", "reasons": [], "runtime": null, "acceptance": null} with input as writer
}

test_allows_writer_as_root if admission.decision.effect == "allow" with input as as_root(writer)

test_denies_empty_input if {
	d := admission.decision with input as {}
	d.effect == "deny"
	"input.incomplete" in d.reasons
}

test_denies_missing_profile if admission.decision.effect == "deny" with input as object.remove(writer, ["profile"])

test_allowed_profiles if {
	admission.decision.effect == "allow" with input as writer with data.ambit.config as {"allowed_profiles": ["writer"]}
	d := admission.decision with input as writer with data.ambit.config as {"allowed_profiles": ["reader"]}
	d.reasons == ["profile.not-allowed"]
}

test_empty_list_of_profiles_denies if {
	admission.decision.effect == "deny" with input as writer with data.ambit.config as {"allowed_profiles": []}
}

test_malformed_list_of_profiles_denies if {
	admission.decision.effect == "deny" with input as writer with data.ambit.config as {"allowed_profiles": null}
	admission.decision.effect == "deny" with input as writer with data.ambit.config as {"allowed_profiles": "writer"}
}

test_allowed_users if {
	admission.decision.effect == "allow" with input as writer with data.ambit.config as {"allowed_users": ["alice"]}
	admission.decision.reasons == ["user.not-allowed"] with input as writer with data.ambit.config as {"allowed_users": ["bob"]}
}

test_agents_by_digest if {
	admission.decision.effect == "allow" with input as writer with data.ambit.config as {"agents": ["aa"]}
	admission.decision.reasons == ["agent.not-allowed"] with input as writer with data.ambit.config as {"agents": ["bb"]}
}

test_agent_without_digest_is_on_no_list if {
	nameless := object.union(writer, {"agent": object.union(writer.agent, {"digest": null})})
	admission.decision.reasons == ["agent.not-allowed"] with input as nameless with data.ambit.config as {"agents": ["aa"]}
}

test_origins if {
	file := with_profile({"origin": "file"})
	admission.decision.effect == "allow" with input as file
	d := admission.decision with input as file with data.ambit.config as {"trusted_origins": ["shipped", "yours"]}
	d.reasons == ["profile.origin-not-allowed"]
}

test_mount_only_up_to_label if {
	internal := with_profile({"roots": root({"via": "mount", "access": "read"})})
	admission.decision.effect == "allow" with input as internal
	confidential := with_profile({"roots": root({"via": "mount", "access": "read", "label": "confidential"})})
	admission.decision.reasons == ["mount.label-too-high:files[0]"] with input as confidential
	admission.decision.effect == "allow" with input as confidential with data.ambit.config as {"mount_label": "confidential"}
}

test_root_keeps_out_of_system_directories if {
	etc := with_profile({"roots": root({"path": "/etc/nginx"})})
	admission.decision.effect == "allow" with input as etc
	admission.decision.reasons == ["root.system-directory:files[0]"] with input as as_root(etc)
	admission.decision.effect == "allow" with input as as_root(with_profile({"roots": root({"path": "/etcetera"})}))
	admission.decision.effect == "allow" with input as as_root(with_profile({"roots": root({"path": "/etc/nginx", "access": "read"})}))
}

test_root_has_no_desktop if {
	desktop := with_profile({"desktop": {"clipboard": "allow", "display": "deny", "audio": "deny"}})
	admission.decision.effect == "allow" with input as desktop
	admission.decision.reasons == ["root.desktop:clipboard"] with input as as_root(desktop)
}

test_uninspected_hosts_are_cleared_for_internal_at_most if {
	blind := with_profile({"hosts": [object.union(writer.profile.hosts[0], {"inspect": false})]})
	admission.decision.reasons == ["network.uninspected-clearance:network[0]"] with input as blind
	low := with_profile({"hosts": [object.union(writer.profile.hosts[0], {"inspect": false, "clearance": "internal"})]})
	admission.decision.effect == "allow" with input as low
}

test_regulated_needs_microvm_and_a_terminal if {
	d := admission.decision with input as with_profile({"label": "regulated"})
	d == {"effect": "allow", "reasons": [], "runtime": "microvm", "acceptance": "terminal"}
}

test_runtime_by_label if {
	config := {"runtimes": {"internal": "container", "confidential": "microvm"}}
	admission.decision.runtime == "container" with input as writer with data.ambit.config as config
	admission.decision.runtime == "microvm" with input as with_profile({"label": "confidential"}) with data.ambit.config as config
	admission.decision.runtime == null with input as with_profile({"label": "public"}) with data.ambit.config as config
}

test_unknown_runtime_denies if {
	admission.decision.effect == "deny" with input as writer with data.ambit.config as {"runtimes": {"internal": "jail"}}
}

test_acceptance_at_the_terminal if {
	admission.decision.acceptance == null with input as writer
	admission.decision.acceptance == "terminal" with input as writer with data.ambit.config as {"acceptance": "terminal"}
}
