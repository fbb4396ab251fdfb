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

because(runtime, reason) := {"runtime": runtime, "reason": reason}

root(change) := [object.union(writer.profile.roots[0], change)]

test_allows_writer if {
	admission.decision == {"effect": "allow", "reasons": [], "runtime": null, "raised": [], "acceptance": null} with input as writer
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
	d == {"effect": "allow", "reasons": [], "runtime": "microvm", "raised": [because("microvm", "label.regulated")], "acceptance": "terminal"}
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

test_regulated_has_microvm_and_no_less if {
	config := {"runtimes": {"regulated": "os-sandbox"}}
	d := admission.decision with input as with_profile({"label": "regulated"}) with data.ambit.config as config
	d.runtime == "microvm"
}

test_high_risk_user_gets_microvm if {
	config := {"high_risk_users": ["bob", "alice"]}
	d := admission.decision with input as writer with data.ambit.config as config
	d.effect == "allow"
	d.runtime == "microvm"
	d.raised == [because("microvm", "user.high-risk")]
	admission.decision.runtime == null with input as writer with data.ambit.config as {"high_risk_users": ["bob"]}
}

test_unknown_agent_gets_container_where_a_list_is_configured if {
	known := admission.decision with input as writer with data.ambit.config as {"known_agents": ["aa"]}
	known.runtime == null
	unknown := admission.decision with input as writer with data.ambit.config as {"known_agents": ["bb"]}
	unknown.effect == "allow"
	unknown.runtime == "container"
	unknown.raised == [because("container", "agent.unknown")]
	none := admission.decision with input as writer with data.ambit.config as {"known_agents": []}
	none.runtime == "container"
	admission.decision.runtime == null with input as writer
}

test_agent_without_digest_is_unknown if {
	nameless := object.union(writer, {"agent": object.union(writer.agent, {"digest": null})})
	admission.decision.runtime == "container" with input as nameless with data.ambit.config as {"known_agents": ["aa"]}
}

test_admitted_agent_is_known if {
	admission.decision.runtime == null with input as writer with data.ambit.config as {"agents": ["aa"], "known_agents": []}
}

test_the_strongest_of_all_reasons if {
	config := {"runtimes": {"internal": "container"}, "high_risk_users": ["alice"], "known_agents": []}
	d := admission.decision with input as writer with data.ambit.config as config
	d.runtime == "microvm"
	d.raised == sort([because("container", "agent.unknown"), because("container", "label.internal"), because("microvm", "user.high-risk")])
}

# Whoever misspells a list must not believe that it protects.
test_malformed_settings_deny if {
	every config in malformed {
		denies_with(config)
	}
}

malformed := [
	{"high_risk_user": ["alice"]},
	{"high_risk_users": "alice"},
	{"high_risk_users": [1]},
	{"known_agents": null},
	{"runtimes": ["microvm"]},
	{"runtimes": {"secret": "microvm"}},
	{"mount_label": "nonsense"},
	{"acceptance": "terminals"},
	"microvm",
]

denies_with(config) if admission.decision.effect == "deny" with input as writer with data.ambit.config as config

test_acceptance_at_the_terminal if {
	admission.decision.acceptance == null with input as writer
	admission.decision.acceptance == "terminal" with input as writer with data.ambit.config as {"acceptance": "terminal"}
}
