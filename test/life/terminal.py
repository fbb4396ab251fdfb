"""Sits at a terminal before `ambit run -- bash` and says, one JSON object, what a person would see."""
import json, os, shutil, sys, time

from terminal_driver import Terminal

ambit = sys.argv[1:]
results = {}


def note(name, good, terminal):
    results[name] = True if good else terminal.out.decode("utf-8", "replace")[-600:]


def shell():
    t = Terminal(ambit + ["bash", "--norc", "-i"])
    t.sees(r"\$ $")
    t.type("bind 'set enable-bracketed-paste off'; PS1='> '; echo rea''dy\n")
    t.sees("ready\r\n> $")
    return t


def ask(name, keys, pattern):
    t.type(keys)
    note(name, t.sees(pattern), t)


t = shell()
ask("size", "stty size\n", r"24 80\r\n")
t.resize(40, 120)
ask("resized", "stty size\n", r"40 120\r\n")
t.type("/usr/bin/python3 -c 'import os, signal; w = {signal.SIGWINCH}; signal.pthread_sigmask(0, w); os.write(1, b\"wai\" + b\"ting\"); signal.sigwait(w); os.write(1, b\"win\" + b\"ch \")'\n")
t.sees("waiting")
t.resize(30, 100)
note("window change signal", t.sees("winch"), t)
t.sees("> $")
t.type("echo stan''ding; sleep 60\n")
t.sees("standing")
time.sleep(1)
ask("ctrl-z", "\x1a", r"Stopped +sleep 60")
ask("bg", "bg; jobs\n", r"Running +sleep 60")
t.type("fg\n")
t.sees(r"fg\r\nsleep 60\r\n")
# bash says so before it hands the terminal over: a key of that moment is bash's own.
time.sleep(1)
ask("fg and ctrl-c", "\x03", r"\^C\r\n> ")
ask("status of an interrupted job", "echo st=$?\n", r"st=130\r\n")
t.type("echo stan''ding; wc -c\n")
t.sees("standing")
time.sleep(1)
t.type("abc\n")
ask("end of file", "\x04", r"4\r\n> ")
ask("unicode", "printf '%b\\n' '\\u65e5\\u672c \\U1f469\\u200d\\U1f4bb e\\u0301'\n", "日本 👩\u200d💻 e\u0301\r\n")
ask("unicode typed", "echo 日本語 é\n", "\n日本語 é\r\n")
ask("unicode names", "touch '日本.txt' '👩‍💻'; ls | cat\n", r"日本.txt\r\n👩‍💻\r\n")
if shutil.which("less"):
    ask("less", "seq 1 500 | less\n", r"\n29\r\n:")
    ask("less to the end", "G", r"500\r\n")
    t.type("q")
    t.sees("> $")
if shutil.which("vim"):
    ask("vim", "vim -u NONE -n written.txt\n", r"written.txt")
    t.type("iwritten in vim\x1b:wq\r")
    t.sees("> $")
    ask("vim wrote", "cat written.txt\n", r"\nwritten in vim\r\n")
if shutil.which("tmux"):
    ask("tmux", "tmux -f /dev/null new -s inner\n", r"\[inner\]")
    ask("tmux shell", "echo in''side $TERM\r", r"inside (tmux|screen)")
    t.type("exit\r")
    note("tmux ends", t.sees(r"\[exited\][\s\S]*> $"), t)
ask("other windows' clipboard and title", "printf 'a\\033]52;c;c2VjcmV0\\007b\\033]0;title\\007c\\n'\n", r"\nabc\r\n")
t.type("exit 7\n")
code = t.status()
note("exit status", code == 7, t)
# The quotes keep the word off the screen until the command says it, and then it is in the foreground.
t = Terminal(ambit + ["sh", "-c", "echo stan''ding; exec sleep 60"])
t.sees("standing", 60)
t.type("\x03")
note("ctrl-c ends a command with 130", t.status() == 130, t)
t = Terminal(ambit + ["sh", "-c", "trap 'echo got hup > hup.txt; exit' HUP; echo stan''ding; while :; do sleep 0.1; done"])
t.sees("standing", 60)
os.close(t.fd)
t.fd = os.open("/dev/null", os.O_RDONLY)
end = time.time() + 15
while os.waitpid(t.pid, os.WNOHANG)[0] == 0 and time.time() < end:
    time.sleep(0.1)
note("a closed terminal ends the session", time.time() < end, t)
print(json.dumps(results))
