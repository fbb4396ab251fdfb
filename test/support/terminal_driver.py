"""A person at a terminal: types, resizes, waits for what the screen shows."""
import fcntl, os, pty, re, select, struct, termios, time


class Terminal:
    def __init__(self, command):
        self.out = b""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execvp(command[0], command)
        self.resize(24, 80)

    def resize(self, rows, columns):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys):
        self.out = b""
        os.write(self.fd, keys.encode())

    def sees(self, pattern, seconds=15):
        end = time.time() + seconds
        while not re.search(pattern.encode(), self.out):
            if time.time() > end:
                return False
            if select.select([self.fd], [], [], 0.2)[0]:
                try:
                    self.out += os.read(self.fd, 65536)
                except OSError:
                    return bool(re.search(pattern.encode(), self.out))
        return True

    def status(self, seconds=20):
        end = time.time() + seconds
        while time.time() < end:
            if select.select([self.fd], [], [], 0.1)[0]:
                try:
                    self.out += os.read(self.fd, 65536)
                except OSError:
                    pass
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
        return None
