"""Sits at a terminal before `ambit run … -- bash` in a machine: one boot, one JSON object of what a person would see."""
import json, os, re, subprocess, sys, time

from terminal_driver import Terminal

ambit, command = sys.argv[1], sys.argv[2:]
results = {}
BOOT = 120


def note(name, good, said=None):
    results[name] = True if good else said or t.out.decode("utf-8", "replace")[-600:]


def ask(name, keys, pattern, seconds=30):
    t.type(keys)
    note(name, t.sees(pattern, seconds))


def order(*words):
    done = subprocess.run([ambit, *words], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def count():
    try:
        return int(open("count").read() or 0)
    except (FileNotFoundError, ValueError):
        return 0


def grows(seconds=20):
    before, end = count(), time.time() + seconds
    while count() <= before and time.time() < end:
        time.sleep(0.1)
    return count() > before


def stands_still():
    """Within a moment, and then for a second."""
    end = time.time() + 10
    while time.time() < end:
        before = count()
        time.sleep(1)
        if count() == before:
            return True
    return False


def clock(name, most=2):
    t.type("date +now=%s.%N\n")
    t.sees(r"now=\d+\.\d+\r\n", 30)
    found = re.search(rb"now=(\d+\.\d+)\r", t.out)
    off = time.time() - float(found[1]) if found else None
    note(name, off is not None and -0.5 < off < most, f"{off} s behind" if found else None)


t = Terminal(command)
t.sees(r"\$ $", BOOT)
t.type("bind 'set enable-bracketed-paste off'; PS1='> '; echo rea''dy\n")
t.sees("ready\r\n> $", 30)
ask("size", "stty size\n", r"24 80\r\n")
t.resize(40, 120)
time.sleep(0.5)
ask("resized", "stty size\n", r"40 120\r\n")
t.type("bash -c 'trap \"echo win\"\"ch; exit\" WINCH; echo wai\"\"ting; while :; do sleep 0.1; done'\n")
t.sees("waiting", 30)
t.resize(30, 100)
note("window change signal", t.sees("winch", 30))
t.sees("> $", 30)
t.type("sleep 60\n")
time.sleep(2)
ask("ctrl-z", "\x1a", r"Stopped +sleep 60")
ask("bg", "bg; jobs\n", r"Running +sleep 60")
t.type("fg\n")
t.sees(r"fg\r\nsleep 60\r\n", 30)
time.sleep(2)  # bash says so before the job has the terminal
ask("fg and ctrl-c", "\x03", r"\^C\r\n> ")
ask("status of an interrupted job", "echo st=$?\n", r"st=130\r\n")
t.type("wc -c\n")
time.sleep(2)
t.type("abc\n")
ask("end of file", "\x04", r"4\r\n> ")
ask("a signal's status", "sh -c 'kill -TERM $$'; echo st=$?\n", r"st=143\r\n")
ask("no clipboard, no title", "printf 'a\\033]52;c;c2VjcmV0\\007b\\033]0;title\\007c\\n'\n", r"\nabc\r\n")
clock("clock")

session = re.search(r"s[0-9a-z]{8,}-[0-9a-z]+", order("sessions", "--json")[1])[0]
t.type("n=0; while :; do n=$((n+1)); echo $n > count; sleep 0.05; done\n")
note("it runs", grows())
note("frozen", order("freeze", session)[0] == 0 and stands_still(), "it went on")
time.sleep(12)
note("thawed", order("thaw", session)[0] == 0 and grows(), "it stands still")
t.type("\x03")
t.sees(r"\^C\r\n> ", 30)
# A machine stopped in the middle of a tick may take a moment; a clock that nobody set is 12 seconds behind.
clock("clock after a freeze", most=6)

ask("before it is taken", "exec 7< secret.txt; cat secret.txt\n", r"\nthe content that is taken away")
code, said = order("narrow", session, "hide", "secret.txt")
note("narrowed", code == 0, said)
ask("taken by name", "cat secret.txt\n", r"No such file")
ask("taken by handle", "cat <&7; echo st=$?\n", r"st=1\r\n")
ask("the rest stays", "cat other.txt\n", r"\nthe rest")
t.type("kill -9 $$\n")
note("killed by a signal", t.status(60) == 137)
print(json.dumps(results))
