# The same operations on a plain directory and in a view, in lock-step: run by lockstep.test.ts, in the view's mount.
# It finds KNOWN (sequences played first), SEED, ROUNDS, STEPS, SPARE, PLAIN (a host directory), REVIEW and DELIBERATE above it.
import ctypes, hashlib, mmap, random

libc = ctypes.CDLL(None, use_errno=True)
NAMES = ['a', 'b', 'c', 'd', 'e']
FLAGS = {'NOREPLACE': 1, 'EXCHANGE': 2}
KEEP_SIZE, PUNCH_HOLE, COLLAPSE, ZERO_RANGE = 1, 2, 8, 16
LONG_AGO = 1_000_000_000


def checked(result):
    if result < 0: raise OSError(ctypes.get_errno(), '')
    return result


class Tree:
    def __init__(self, root):
        self.root, self.fds = root, {}

    def at(self, path): return self.root + '/' + path

    def fd(self, slot):
        if slot not in self.fds: raise OSError(errno.EBADF, '')
        return self.fds[slot]

    def close_all(self):
        for fd in self.fds.values(): os.close(fd)
        self.fds = {}


def told(s):
    kind = stat.S_IFMT(s.st_mode)
    # Links and size of a directory count what is hidden, so the view shows constants.
    # Under review a file of the host's that lost its name here has it there.
    links = max(s.st_nlink, 1) if REVIEW else s.st_nlink
    more = [] if stat.S_ISDIR(s.st_mode) else [links, s.st_size]
    return [kind, s.st_mode & 0o7777, *more]

def short(data): return [len(data), hashlib.sha256(data).hexdigest()[:12]] if len(data) > 40 else data.decode('latin1')

# Operations on names.
def op_open(t, slot, p, flags, mode):
    fd = os.open(t.at(p), flags, mode)
    if slot in t.fds: os.close(t.fds[slot])
    t.fds[slot] = fd
def op_stat(t, p): return told(os.stat(t.at(p)))
def op_lstat(t, p): return told(os.lstat(t.at(p)))
def op_truncate(t, p, n): os.truncate(t.at(p), n)
def op_rename(t, p, q): os.rename(t.at(p), t.at(q))
def op_rename2(t, p, q, flag): checked(libc.renameat2(-100, t.at(p).encode(), -100, t.at(q).encode(), FLAGS[flag]))
def op_link(t, p, q): os.link(t.at(p), t.at(q), follow_symlinks=False)
def op_symlink(t, to, p): os.symlink(to, t.at(p))
def op_readlink(t, p): return os.readlink(t.at(p))
def op_unlink(t, p): os.unlink(t.at(p))
def op_mkdir(t, p, mode): os.mkdir(t.at(p), mode)
def op_rmdir(t, p): os.rmdir(t.at(p))
def op_mkfifo(t, p): os.mkfifo(t.at(p), 0o644)
def op_chmod(t, p, mode):
    # What lies where its owner may not look the view cannot look at: it refuses, the kernel does not where it is open.
    os.chmod(t.at(p), mode | 0o500 if stat.S_ISDIR(os.stat(t.at(p)).st_mode) else mode)
def op_list(t, p): return sorted(os.listdir(t.at(p)))
def op_access(t, p, mode): return os.access(t.at(p), mode)
def op_utime(t, p, a, m):
    os.utime(t.at(p), ns=(a, m), follow_symlinks=False)
    s = os.lstat(t.at(p))
    # On the way to it a link of this path may have been read, which the view's do not remember.
    return [0 if stat.S_ISLNK(s.st_mode) else s.st_atime_ns, s.st_mtime_ns]
def op_setxattr(t, p, name, value, flags): os.setxattr(t.at(p), name, value.encode(), flags)
def op_getxattr(t, p, name): return os.getxattr(t.at(p), name).decode('latin1')
def op_listxattr(t, p): return sorted(name for name in os.listxattr(t.at(p)) if name.startswith('user.'))
def op_removexattr(t, p, name): os.removexattr(t.at(p), name)
def op_slurp(t, p):
    fd = os.open(t.at(p), os.O_RDONLY | os.O_NONBLOCK)
    try: return short(os.read(fd, 1 << 17))
    finally: os.close(fd)
def op_spill(t, p, n, flags):
    fd = os.open(t.at(p), flags, 0o644)
    try: return os.write(fd, bytes([n % 251]) * n)
    finally: os.close(fd)

# What a change does to the time of the last one.
def op_ages(t, p, what, q):
    path = t.at(p)
    if not stat.S_ISREG(os.lstat(path).st_mode): raise OSError(errno.EINVAL, '')
    os.utime(path, (LONG_AGO, LONG_AGO))
    if what == 'read': op_slurp(t, p)
    if what == 'chmod': os.chmod(path, 0o640)
    if what == 'append': op_spill(t, p, 3, os.O_WRONLY | os.O_APPEND)
    if what == 'nothing': op_spill(t, p, 0, os.O_WRONLY)
    if what == 'cut': os.truncate(path, os.stat(path).st_size + 7)
    if what == 'empty': op_spill(t, p, 0, os.O_WRONLY | os.O_TRUNC)
    if what == 'rename': op_rename(t, p, q); path = t.at(q)
    if what == 'link': op_link(t, p, q)
    return os.stat(path).st_mtime == LONG_AGO

# Operations on open files.
def op_close(t, slot):
    os.close(t.fd(slot))
    del t.fds[slot]
def op_read(t, slot, n): return short(os.read(t.fd(slot), n))
def op_pread(t, slot, n, at): return short(os.pread(t.fd(slot), n, at))
def op_write(t, slot, n): return os.write(t.fd(slot), bytes([n % 251]) * n)
def op_pwrite(t, slot, n, at): return os.pwrite(t.fd(slot), bytes([n % 251]) * n, at)
def op_writev(t, slot, n, m): return os.writev(t.fd(slot), [b'v' * n, b'w' * m])
def op_seek(t, slot, at, how):
    # Places in a directory mean nothing to anybody else.
    if stat.S_ISDIR(os.fstat(t.fd(slot)).st_mode): return None
    return os.lseek(t.fd(slot), at, how)
def op_ftruncate(t, slot, n): os.ftruncate(t.fd(slot), n)
def op_fallocate(t, slot, mode, at, n):
    checked(libc.fallocate(t.fd(slot), mode, ctypes.c_long(at), ctypes.c_long(n)))
    return os.fstat(t.fd(slot)).st_size
def op_collapse(t, slot): checked(libc.fallocate(t.fd(slot), COLLAPSE, ctypes.c_long(1), ctypes.c_long(1)))
def op_fsync(t, slot): os.fsync(t.fd(slot))
def op_fdatasync(t, slot): os.fdatasync(t.fd(slot))
def op_fstat(t, slot): return told(os.fstat(t.fd(slot)))
def op_fchmod(t, slot, mode):
    os.fchmod(t.fd(slot), mode | 0o500 if stat.S_ISDIR(os.fstat(t.fd(slot)).st_mode) else mode)
def op_futime(t, slot, m):
    os.utime(t.fd(slot), ns=(m, m))
    return os.fstat(t.fd(slot)).st_mtime_ns
def op_fxattr(t, slot, value):
    os.setxattr(t.fd(slot), 'user.f', value.encode())
    return os.getxattr(t.fd(slot), 'user.f').decode()
def op_copy_range(t, slot, other, n, at): return os.copy_file_range(t.fd(slot), t.fd(other), n, 0, at)
def op_map_read(t, slot):
    with mmap.mmap(t.fd(slot), 0, prot=mmap.PROT_READ) as held: return short(held[:])
def op_map_write(t, slot, n, at):
    with mmap.mmap(t.fd(slot), 0) as held:
        at %= len(held)
        held[at:at + n] = b'm' * len(held[at:at + n])
        held.flush()
        return short(held[:])
def op_relink(t, slot, p): os.link('/proc/self/fd/%d' % t.fd(slot), t.at(p), follow_symlinks=True)
def op_dir_at(t, slot, name):
    fd = os.open(name, os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=t.fd(slot))
    os.close(fd)
def op_dir_list(t, slot): return sorted(os.listdir(t.fd(slot)))

# What the view does on purpose otherwise, without an effect on what follows.
def op_tmpfile(t, p): os.close(os.open(t.at(p), os.O_TMPFILE | os.O_RDWR, 0o600))
def op_suid(t, p):
    s = os.stat(t.at(p))
    if not stat.S_ISREG(s.st_mode): return None
    os.chmod(t.at(p), 0o6755)
    seen = os.stat(t.at(p)).st_mode & 0o7777
    os.chmod(t.at(p), 0o644)
    return seen
def op_security(t, p): os.setxattr(t.at(p), 'security.ambit', b'x')


def path(r):
    if r.random() < 0.04: return r.choice(['a/', 'd/', '.', 'd/.', 'd/..', 'd//a', './b', 'a/.', 'n' * 255, 'n' * 256, ''])
    return '/'.join(r.choice(NAMES) for _ in range(r.choice([1, 1, 2, 2, 3])))
def slot(r): return r.randrange(4)
def size(r): return r.choice([0, 1, 5, 100, 4095, 4096, 4097, 10_000, 70_000])
def offset(r): return r.choice([0, 1, 3, 4095, 4096, 8192, 12_000, 65_536, 200_000])
def mode(r): return r.choice([0o644] * 6 + [0o600, 0o444, 0o200, 0o000, 0o755, 0o1644])
def dir_mode(r): return r.choice([0o755] * 12 + [0o700, 0o555, 0o1777, 0o000])
def open_flags(r):
    access = r.choice([os.O_RDONLY, os.O_RDWR, os.O_RDWR, os.O_WRONLY])
    more = [os.O_CREAT, os.O_CREAT, os.O_TRUNC, os.O_EXCL, os.O_APPEND, os.O_NOFOLLOW, os.O_DIRECTORY, os.O_SYNC, os.O_PATH]
    for flag in r.sample(more, r.choice([0, 1, 1, 2, 2, 3])): access |= flag
    # A FIFO would wait for its other end.
    return access | os.O_NONBLOCK

MAKE = {
    'open': (14, lambda r: [slot(r), path(r), open_flags(r), mode(r)]),
    'stat': (3, lambda r: [path(r)]), 'lstat': (3, lambda r: [path(r)]),
    'truncate': (3, lambda r: [path(r), size(r)]),
    'rename': (6, lambda r: [path(r), path(r)]),
    'rename2': (3, lambda r: [path(r), path(r), r.choice(['NOREPLACE', 'EXCHANGE'])]),
    'link': (4, lambda r: [path(r), path(r)]),
    'symlink': (4, lambda r: [r.choice([path(r) or 'a', '../' + path(r), 'x' * 300]), path(r)]),
    'readlink': (1, lambda r: [path(r)]),
    'unlink': (5, lambda r: [path(r)]), 'mkdir': (5, lambda r: [path(r), dir_mode(r)]), 'rmdir': (3, lambda r: [path(r)]),
    'mkfifo': (1, lambda r: [path(r)]),
    'chmod': (3, lambda r: [path(r), r.choice([0o755, 0o644, 0o700, 0o555, 0o444, 0o000])]),
    'list': (2, lambda r: [path(r)]), 'access': (1, lambda r: [path(r), r.randrange(8)]),
    'utime': (3, lambda r: [path(r), r.randrange(1 << 60), r.randrange(1 << 60)]),
    'setxattr': (2, lambda r: [path(r), r.choice(['user.a', 'user.b']), 'v' * r.choice([0, 3, 50]), r.choice([0, 0, 1, 2])]),
    'getxattr': (1, lambda r: [path(r), r.choice(['user.a', 'user.b'])]), 'listxattr': (1, lambda r: [path(r)]),
    'removexattr': (1, lambda r: [path(r), r.choice(['user.a', 'user.b'])]),
    'slurp': (3, lambda r: [path(r)]),
    'spill': (6, lambda r: [path(r), size(r), os.O_WRONLY | os.O_NONBLOCK | r.choice([os.O_CREAT, os.O_APPEND, os.O_TRUNC | os.O_CREAT, os.O_CREAT | os.O_EXCL])]),
    'ages': (4, lambda r: [path(r), r.choice(['read', 'chmod', 'append', 'nothing', 'cut', 'empty', 'rename', 'link']), path(r)]),
    'close': (4, lambda r: [slot(r)]),
    'read': (3, lambda r: [slot(r), size(r)]), 'pread': (3, lambda r: [slot(r), size(r), offset(r)]),
    'write': (5, lambda r: [slot(r), size(r)]), 'pwrite': (5, lambda r: [slot(r), size(r), offset(r)]),
    'writev': (1, lambda r: [slot(r), size(r), size(r)]),
    'seek': (4, lambda r: [slot(r), r.choice([0, 3, 4096, 70_000, -1]), r.choice([os.SEEK_SET, os.SEEK_CUR, os.SEEK_END, os.SEEK_DATA, os.SEEK_HOLE])]),
    'ftruncate': (4, lambda r: [slot(r), r.choice([size(r), offset(r), -1])]),
    'fallocate': (3, lambda r: [slot(r), r.choice([0, KEEP_SIZE, KEEP_SIZE | PUNCH_HOLE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE, PUNCH_HOLE]), offset(r), r.choice([0, 1, 4096, 9000])]),
    'collapse': (1, lambda r: [slot(r)]),
    'fsync': (1, lambda r: [slot(r)]), 'fdatasync': (1, lambda r: [slot(r)]), 'fstat': (3, lambda r: [slot(r)]),
    'fchmod': (2, lambda r: [slot(r), mode(r)]), 'futime': (2, lambda r: [slot(r), r.randrange(1 << 60)]),
    'fxattr': (1, lambda r: [slot(r), 'x' * r.randrange(9)]),
    'copy_range': (2, lambda r: [slot(r), slot(r), size(r), offset(r)]),
    'map_read': (2, lambda r: [slot(r)]), 'map_write': (2, lambda r: [slot(r), size(r), offset(r)]),
    'relink': (1, lambda r: [slot(r), path(r)]),
    'dir_at': (1, lambda r: [slot(r), r.choice(NAMES)]), 'dir_list': (1, lambda r: [slot(r)]),
    'tmpfile': (1, lambda r: [path(r)]), 'suid': (1, lambda r: [path(r)]), 'security': (1, lambda r: [path(r)]),
}
KINDS = [name for name, (weight, _) in MAKE.items() for _ in range(weight)]


def plan(seed):
    r = random.Random(seed)
    return [[kind, *MAKE[kind][1](r)] for kind in r.choices(KINDS, k=STEPS)]

def answer(tree, step):
    try: return globals()['op_' + step[0]](tree, *step[1:])
    except OSError as error: return errno.errorcode[error.errno]
    # An empty file cannot be mapped: Python's word.
    except ValueError as error: return str(error)

def whole(top):
    seen = []
    for base, dirs, files in os.walk(top):
        dirs.sort()
        for name in sorted(dirs + files):
            p = os.path.join(base, name)
            # A directory that can be listed and not entered.
            try: s = os.lstat(p)
            except OSError as error: seen.append([os.path.relpath(p, top), errno.errorcode[error.errno]]); continue
            if stat.S_ISLNK(s.st_mode): content = os.readlink(p)
            elif stat.S_ISREG(s.st_mode): content = get_bytes(p)
            else: content = ''
            seen.append([os.path.relpath(p, top), *told(s), content])
    return seen
def get_bytes(p):
    try:
        with open(p, 'rb') as file: return hashlib.sha256(file.read()).hexdigest()[:12]
    except OSError as error: return errno.errorcode[error.errno]

# Moves that a reviewed root refuses: a directory of the host's moves by copy (EXDEV, mv(1) does it), nothing swaps.
def cannot_move(step, plain, first):
    if not REVIEW or step[0] not in ('rename', 'rename2', 'ages'): return False
    if step[0] == 'rename2' and step[3] == 'EXCHANGE': return True
    try: s = os.lstat(plain.at(step[1]))
    except OSError: return False
    return (s.st_dev, s.st_ino) in first

# Each name of a FIFO is a pipe of its own: a file with several names is several files to the kernel, which holds the
# pipe with the file.
def joins_pipes(step, plain):
    try:
        if step[0] == 'link': s = os.lstat(plain.at(step[1]))
        elif step[0] == 'relink': s = os.fstat(plain.fd(step[1]))
        else: return False
    except OSError: return False
    return stat.S_ISFIFO(s.st_mode)

# Under review a file of the host's that lost its name here, open and unchanged until now: it is the host's still, and
# without a name there is no place for a copy (ESTALE).
def changes_the_hosts(step, plain, files):
    if not REVIEW or step[0] not in ('fchmod', 'futime', 'fxattr', 'relink'): return False
    try: s = os.fstat(plain.fd(step[1]))
    except OSError: return False
    return s.st_nlink == 0 and (s.st_dev, s.st_ino) in files

def those_of(top, which):
    return {(s.st_dev, s.st_ino) for s in (os.lstat(os.path.join(b[0], n)) for b in os.walk(top) for n in b[which])}

def play(steps, place):
    plain, view = Tree(PLAIN + '/' + place), Tree(os.path.abspath('0') + '/' + place)
    first, files = those_of(plain.root, 1), those_of(plain.root, 2)
    try:
        for number, step in enumerate(steps):
            if cannot_move(step, plain, first) or joins_pipes(step, plain) or changes_the_hosts(step, plain, files): continue
            want, got = answer(plain, step), answer(view, step)
            if want != got and [step[0], want, got] not in DELIBERATE: return [number, step, want, got]
            if number % 20 == 19 or number == len(steps) - 1:
                want, got = whole(plain.root), whole(view.root)
                if want != got: return [number, 'tree', [e for e in want if e not in got], [e for e in got if e not in want]]
        return None
    finally:
        plain.close_all(), view.close_all()

# What is left of a failing sequence when nothing more can be left out; each trial has a place of its own.
def shrink(steps, spare):
    chunk = len(steps) // 2
    while chunk:
        at = 0
        while at < len(steps):
            if not spare: return steps
            fewer = steps[:at] + steps[at + chunk:]
            if play(fewer, spare.pop()): steps = fewer
            else: at += chunk
        chunk //= 2
    return steps

os.umask(0o022)
for round in range(len(KNOWN) + ROUNDS):
    steps = KNOWN[round] if round < len(KNOWN) else plan(SEED + round - len(KNOWN))
    different = play(steps, 'r%d' % round)
    if different:
        spare = ['s%d' % n for n in range(SPARE)]
        kept = shrink(steps[:different[0] + 1], spare)
        result['difference'] = {'seed': SEED + round - len(KNOWN), 'steps': kept, 'at': different, 'last': spare and play(kept, spare.pop())}
        break
result['rounds'] = round + 1
