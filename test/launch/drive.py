"""Drives `ambit-launch world` as `ambit run` would, without the rest of Ambit. One JSON scenario in, one result out.

Python because it is here (git, node-gyp and half of all agents want it) and passes descriptors out of the box.
"""
import fcntl, json, os, pty, resource, select, shutil, signal, socket, struct, sys, tempfile, termios, time

scenario = json.load(sys.stdin)


def become(uid):
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def mounts():
    found = []
    for path in ("/usr", "/bin", "/sbin", "/lib", "/lib64"):
        if os.path.islink(path):
            found.append({"kind": "symlink", "target": path, "link": os.readlink(path)})
        elif os.path.isdir(path):
            found.append({"kind": "bind", "source": path, "target": path, "write": False})
    found.append({"kind": "tmpfs", "target": "/tmp", "size": 64 << 20, "mode": 0o1777})
    found.append({"kind": "file", "target": "/etc/passwd", "content": "u:x:1000:1000::/tmp:/bin/sh\n", "mode": 0o644})
    return found + scenario.get("mounts", [])


def spec(directory):
    host = scenario.get("host") or {"uid": os.getuid(), "gid": os.getgid()}
    limits = {"processes": 64, "memory": 1 << 30, "cpus": 1, "wallclock": 20000, "disk": 1 << 30, "openFiles": 256}
    return {
        "version": 2, "session": "test", "host": host, "inside": {"uid": 1000, "gid": 1000}, "hostname": "ambit",
        "tools": scenario["tools"], "cell": {"kind": "bubblewrap"}, "mounts": mounts(), "argv": scenario["argv"],
        "env": {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/tmp", **scenario.get("env", {})},
        "cwd": "/tmp", "terminal": scenario.get("terminal", False),
        "ports": {"tcp": 61801, "dns": 61853, "proxy": 61880},
        "limits": {**limits, **scenario.get("limits", {})}, "journal": directory + "/launch.wal",
        **scenario.get("spec", {}),
    }


def launch(path):
    """The launcher with pipes or a terminal; returns its pid, our control end, our socket end and its output."""
    control, control_inside = socket.socketpair()
    fds, fds_inside = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    outputs = [os.pipe(), os.pipe()]
    pid, master = pty.fork() if scenario.get("terminal") else (os.fork(), None)
    if pid == 0:
        high = [fcntl.fcntl(s.fileno(), fcntl.F_DUPFD, 50) for s in (control_inside, fds_inside)]
        if master is None or not scenario.get("terminal"):
            os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
            os.dup2(outputs[0][1], 1)
            os.dup2(outputs[1][1], 2)
        os.dup2(high[0], 3)
        os.dup2(high[1], 4)
        # A descriptor that the caller forgot to close: the agent must not see it.
        os.dup2(os.open("/", os.O_RDONLY), 9)
        for fd in (3, 4, 9):
            os.set_inheritable(fd, True)
        os.execv(scenario["launch"], [scenario["launch"], "world", path])
    for end in (control_inside, fds_inside):
        end.close()
    for _, write in outputs:
        os.close(write)
    reads = {master: "output"} if master is not None and scenario.get("terminal") else {outputs[0][0]: "output", outputs[1][0]: "errors"}
    return pid, control, fds, reads


def facts(path):
    data = open(path, "rb").read()[8:]
    while data:
        (length,) = struct.unpack("<I", data[:4])
        yield json.loads(data[8:8 + length])
        data = data[8 + length:]


def run():
    if scenario.get("uid"):
        become(scenario["uid"])
    directory = tempfile.mkdtemp(prefix="ambit-launch-")
    path = directory + "/spec.json"
    with open(path, "w") as file:
        json.dump(spec(directory), file)
    pid, control, fds, reads = launch(path)
    result = {"events": [], "output": "", "errors": "", "descriptors": 0, "directory": directory, "pid": pid}
    before = {fd: termios.tcgetattr(fd) for fd in reads if os.isatty(fd)}
    text = {name: b"" for name in ("output", "errors")}
    feed = list(scenario.get("feed", []))
    line, deadline = b"", time.monotonic() + 30
    streams = dict(reads)
    while time.monotonic() < deadline and (control or streams):
        ready, _, _ = select.select(list(streams) + ([control] if control else []), [], [], 0.2)
        if not ready and control is None:
            break
        for fd in [fd for fd in ready if fd in streams]:
            try:
                chunk = os.read(fd, 65536)
            except OSError:
                chunk = b""
            text[streams[fd]] += chunk
            if not chunk:
                del streams[fd]
        if feed and feed[0]["after"].encode() in text["output"]:
            act(feed.pop(0), pid, control, list(reads)[0])
        if control in ready:
            chunk = control.recv(65536)
            if not chunk:
                control = None
            line += chunk
            while b"\n" in line:
                event, line = line.split(b"\n", 1)
                event = json.loads(event)
                result["events"].append(event)
                if event["ev"] == "world":
                    _, received, _, _ = socket.recv_fds(fds, 4096, 8)
                    result["descriptors"] = len(received)
                    control.sendall(b'{"op":"build"}\n')
                if event["ev"] == "ready":
                    control.sendall(b'{"op":"exec"}\n')
    result["restored"] = all(termios.tcgetattr(fd) == old for fd, old in before.items())
    result["status"] = os.waitpid(pid, 0)[1]
    result["peakKiB"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    result.update({name: value.decode(errors="replace") for name, value in text.items()})
    result["facts"] = list(facts(directory + "/launch.wal")) if os.path.exists(directory + "/launch.wal") else []
    shutil.rmtree(directory)
    json.dump(result, sys.stdout)


def act(step, pid, control, terminal):
    if "order" in step:
        control.sendall(json.dumps(step["order"]).encode() + b"\n")
    if "signal" in step:
        os.kill(pid, step["signal"])
    if "type" in step:
        os.write(terminal, step["type"].encode())
    if "die" in step:
        os.kill(os.getpid(), signal.SIGKILL)


run()
