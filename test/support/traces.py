"""traces.py USERS PIDS TARGET...: whom a process may trace that stands where a gVisor Sentry does: in the user namespace
of the process USERS and the pid namespace of PIDS, with their uid and the most capabilities that one has. Prints one line of JSON:
for each TARGET, as that pid namespace counts, "traced" or an errno's name; and for "user namespace" whether it makes one.
"""
import ctypes
import errno
import json
import os
import sys

libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWUSER, CLONE_NEWPID = 0x10000000, 0x20000000
SEIZE = 0x4206
# NET_BIND_SERVICE, NET_ADMIN, SYS_PTRACE, SETFCAP
CAPABILITIES = 10, 12, 19, 31


def asked(returned, done):
    return done if returned >= 0 else errno.errorcode[ctypes.get_errno()]


def must(returned, what):
    if returned < 0:
        sys.exit(f"{what}: {os.strerror(ctypes.get_errno())}")


def keep_the_sentrys():
    class Header(ctypes.Structure):
        _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]

    kept = sum(1 << capability for capability in CAPABILITIES)
    must(libc.capset(ctypes.byref(Header(0x20080522, 0)), (ctypes.c_uint32 * 6)(kept, kept)), "capset")


def trace(pid):
    # It goes on meanwhile, and the end of this process leaves it alone.
    return asked(libc.ptrace(SEIZE, pid, None, None), "traced")


def enter(pid, kind, flag):
    place = f"/proc/{pid}/ns/{kind}"
    must(libc.setns(os.open(place, os.O_RDONLY), flag), f"entering {place}")


users, pids, *targets = sys.argv[1:]
owner, own = (os.stat(f"/proc/{pid}/ns/user").st_ino for pid in (pids, users))
inner = None if own == owner else os.open(f"/proc/{users}/ns/user", os.O_RDONLY)
if targets:
    enter(pids, "user", CLONE_NEWUSER)
    enter(pids, "pid", CLONE_NEWPID)
child = os.fork()
if child:
    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
if inner is not None:
    must(libc.setns(inner, CLONE_NEWUSER), "entering the user namespace")
os.setresgid(0, 0, 0)
os.setresuid(0, 0, 0)
keep_the_sentrys()
answers = {target: trace(int(target)) for target in targets}
answers["user namespace"] = asked(libc.unshare(CLONE_NEWUSER), "made")
print(json.dumps(answers), flush=True)
