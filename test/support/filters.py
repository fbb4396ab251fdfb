"""Reads the seccomp filters of a process (PTRACE_SECCOMP_GET_FILTER: root, CONFIG_CHECKPOINT_RESTORE) and asks them.
filters.py PID CALL[:ARG0[:ARG1…]]… prints one action in hex for each call: the strictest of all filters, as Linux takes it."""
import ctypes, os, struct, sys

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long
SEIZE, INTERRUPT, DETACH, GET_FILTER = 0x4206, 0x4207, 17, 0x420c


def ptrace(request, pid, address=0, data=None):
    result = libc.ptrace(request, pid, address, data)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), f'ptrace {request:#x}')
    return result


def filters(pid):
    ptrace(SEIZE, pid)
    try:
        ptrace(INTERRUPT, pid)
        os.waitpid(pid, 0x40000000)  # __WALL
        found = []
        while True:
            try:
                length = ptrace(GET_FILTER, pid, len(found))
            except FileNotFoundError:
                return found
            buffer = ctypes.create_string_buffer(length * 8)
            ptrace(GET_FILTER, pid, len(found), buffer)
            found.append(list(struct.iter_unpack('<HBBI', buffer.raw)))
    finally:
        ptrace(DETACH, pid)


def ask(program, data):
    """Classic BPF as seccomp has it."""
    a = x = at = 0
    memory = [0] * 16
    while True:
        code, jt, jf, k = program[at]
        at += 1
        kind = code & 7
        if kind == 0:
            a = struct.unpack_from('<I', data, k)[0] if code & 0xe0 == 0x20 else k if code & 0xe0 == 0 else memory[k]
        elif kind == 1:
            x = k if code & 0xe0 == 0 else memory[k]
        elif kind in (2, 3):
            memory[k] = a if kind == 2 else x
        elif kind == 4:
            v = x if code & 8 else k
            a = {0x00: a + v, 0x10: a - v, 0x20: a * v, 0x30: a // v if v else 0, 0x40: a | v, 0x50: a & v,
                 0x60: a << v, 0x70: a >> v, 0x80: -a, 0xa0: a ^ v}[code & 0xf0] & 0xffffffff
        elif kind == 5:
            v = x if code & 8 else k
            test = {0x00: True, 0x10: a == v, 0x20: a > v, 0x30: a >= v, 0x40: a & v != 0}[code & 0xf0]
            at += k if code & 0xf0 == 0 else jt if test else jf
        elif kind == 6:
            return a if code & 0x18 == 0x10 else k
        else:
            a, x = (a, a) if code & 0xf8 == 0 else (x, x)


def strictest(actions):
    """The kernel compares them as signed numbers: SECCOMP_RET_KILL_PROCESS is the least."""
    return min(actions, key=lambda action: ((action & 0xffff0000) ^ 0x80000000) - 0x100000000 if action & 0x80000000 else action & 0xffff0000)


pid = int(sys.argv[1])
programs = filters(pid)
print(len(programs))
for call in sys.argv[2:]:
    number, *arguments = [int(part, 0) for part in call.split(':')]
    arguments += [0] * (6 - len(arguments))
    data = struct.pack('<IIQ6Q', number, 0xc000003e, 0x400000, *arguments)
    print(f'{strictest([ask(program, data) for program in programs]):#x}')
