# Admission: may this user, device, agent and profile meet at all?
#
# The answer is `decision`. A module of your own in the same package may add reasons to `deny`, and to `raise`:
#
#     package ambit.admission
#     import rego.v1
#     deny contains "acme.contractors-read-only" if {
#         startswith(input.user.name, "ext-")
#         input.profile.name != "reader"
#     }
#     raise contains {"runtime": "container", "reason": "acme.contractors"} if startswith(input.user.name, "ext-")
#
# Neither can be taken back: the strongest runtime that anything asks for is the least that a session gets.
#
# Settings are read from `data.ambit.config`, the file policies/data.json of the configuration directory:
#
#     allowed_profiles   names of profiles; unset allows all
#     allowed_users      names of users; unset allows all
#     agents             digests of agents, SHA-256 hex; unset allows all
#     known_agents       digests of agents, SHA-256 hex; any other agent gets at least a container. Unset: all are known
#     high_risk_users    names of users whose sessions get a microVM, whatever the profile asks for
#     trusted_origins    where profile files may come from: shipped, yours, file; unset allows all
#     runtimes           least runtime by label, e.g. {"confidential": "container"}; regulated has microvm, no less
#     mount_label        highest label that `via: mount` may show; default internal
#     acceptance         "terminal": a person at a terminal accepts the sheet, never --yes
#
# A setting that is not one of these, or of another form, denies every session: a list that nobody reads protects nobody.
package ambit.admission

import rego.v1

decision := {
	"effect": effect,
	"reasons": sort([reason | some reason in deny]),
	"runtime": runtime,
	"raised": sort([asked | some asked in raise]),
	"acceptance": acceptance,
}

default effect := "deny"

effect := "allow" if {
	complete
	count(deny) == 0
}

deny contains "input.incomplete" if not complete

deny contains "profile.not-allowed" if {
	"allowed_profiles" in object.keys(config)
	not listed_profile
}

deny contains "user.not-allowed" if {
	"allowed_users" in object.keys(config)
	not listed_user
}

# An agent without a digest (too large, or inside the session's own roots) is not on any list.
deny contains "agent.not-allowed" if {
	"agents" in object.keys(config)
	not listed_agent
}

deny contains "profile.origin-not-allowed" if {
	"trusted_origins" in object.keys(config)
	not trusted_origin
}

# A plain mount filters and hashes nothing.
deny contains sprintf("mount.label-too-high:%s", [root.id]) if {
	some root in input.profile.roots
	root.via == "mount"
	not mountable(root)
}

# What root changes there, every user of the machine runs.
deny contains sprintf("root.system-directory:%s", [root.id]) if {
	input.user.uid == 0
	some root in input.profile.roots
	root.access != "read"
	some dir in system_directories
	beneath(root.path, dir)
}

# A desktop session belongs to a person, and root's programs could drive it.
deny contains sprintf("root.desktop:%s", [name]) if {
	input.user.uid == 0
	some name, state in input.profile.desktop
	state != "deny"
}

# Without inspection nothing limits what leaves, so the highest class may not go there.
deny contains sprintf("network.uninspected-clearance:%s", [rule.id]) if {
	some rule in input.profile.hosts
	not rule.inspect
	rank(rule.clearance) > rank("internal")
}

deny contains "config.unknown-runtime" if {
	some label, name in runtimes
	not known_runtime(label, name)
}

# Also for a module that raises to what nobody has.
deny contains "raise.unknown-runtime" if {
	some asked in raise
	not known_raise(asked)
}

deny contains sprintf("config.unknown-setting:%s", [name]) if {
	some name in (object.keys(config) - settings)
}

deny contains sprintf("config.malformed:%s", [name]) if {
	some name in names_lists
	name in object.keys(config)
	not list_of_names(config[name])
}

deny contains "config.malformed:runtimes" if {
	"runtimes" in object.keys(config)
	not is_object(config.runtimes)
}

deny contains "config.malformed:mount_label" if not object.get(config, "mount_label", "internal") in object.keys(ranks)

deny contains "config.malformed:acceptance" if object.get(config, "acceptance", "terminal") != "terminal"

deny contains "config.malformed" if {
	some value in [data.ambit.config]
	not is_object(value)
}

# Each asks for at least this runtime, and says why.
raise contains {"runtime": name, "reason": sprintf("label.%s", [label])} if {
	some label, name in runtimes
	rank(label) <= rank(input.profile.label)
}

raise contains {"runtime": "microvm", "reason": "label.regulated"} if rank(input.profile.label) >= rank("regulated")

raise contains {"runtime": "microvm", "reason": "user.high-risk"} if input.user.name in config.high_risk_users

# What is on the list of those admitted is known, too.
raise contains {"runtime": "container", "reason": "agent.unknown"} if {
	count(object.keys(config) & {"agents", "known_agents"}) > 0
	not listed_agent
	not known_agent
}

# The strongest of what is asked for; null leaves it to the profile.
default runtime := null

runtime := strongest if {
	wanted := {strength[asked.runtime] | some asked in raise}
	count(wanted) > 0
	some strongest, value in strength
	value == max(wanted)
}

default acceptance := null

acceptance := "terminal" if terminal

terminal if config.acceptance == "terminal"

terminal if rank(input.profile.label) >= rank("regulated")

# A desktop that the agent can see or drive is the user's whole authority.
terminal if {
	some state in input.profile.desktop
	state != "deny"
}

# Memberships stand in rules of their own: engines differ on `not x in y` where x is undefined, not on `not rule`.
listed_profile if input.profile.name in config.allowed_profiles

listed_user if input.user.name in config.allowed_users

listed_agent if input.agent.digest in config.agents

known_agent if input.agent.digest in config.known_agents

trusted_origin if input.profile.origin in config.trusted_origins

default config := {}

config := data.ambit.config if is_object(data.ambit.config)

default runtimes := {}

runtimes := config.runtimes if is_object(config.runtimes)

names_lists := {"allowed_profiles", "allowed_users", "agents", "known_agents", "high_risk_users", "trusted_origins"}

settings := names_lists | {"runtimes", "mount_label", "acceptance"}

list_of_names(value) if {
	is_array(value)
	every name in value {
		is_string(name)
	}
}

known_raise(asked) if {
	asked.runtime in object.keys(strength)
	is_string(asked.reason)
}

ranks := {"public": 0, "internal": 1, "confidential": 2, "regulated": 3}

# An unknown label is higher than all.
rank(label) := object.get(ranks, label, 9)

strength := {"os-sandbox": 0, "container": 1, "microvm": 2}

known_runtime(label, name) if {
	label in object.keys(ranks)
	name in object.keys(strength)
}

mountable(root) if rank(root.label) <= rank(object.get(config, "mount_label", "internal"))

system_directories := {"/etc", "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/boot", "/proc", "/sys", "/dev", "/run", "/var/lib", "/var/spool"}

beneath(path, dir) if path == dir

beneath(path, dir) if startswith(path, concat("", [dir, "/"]))

complete if {
	is_string(input.user.name)
	is_number(input.user.uid)
	is_string(input.device.hostname)
	is_string(input.agent.path)
	is_string(input.profile.name)
	is_string(input.profile.origin)
	input.profile.label in object.keys(ranks)
	is_array(input.profile.roots)
	is_array(input.profile.hosts)
	is_object(input.profile.desktop)
	is_boolean(input.session.accepted)
}
