//! Repositories that a root holds beside its own: what git runs or obeys in them is protected wherever it lies
//! (F-14). A `.git` file names a store anywhere in the project; any directory with HEAD, objects and refs is
//! a repository to git, whatever its name. The root's own `.git` is src/profile/git-redirects.ts's, which has git's
//! own parser; here the parser errs towards protecting.
use std::io::Read;

use rustix::fs::{self, FileType, Mode, OFlags, ResolveFlags};

use crate::aliases::{resolve, within};
use crate::root::Root;
use crate::sys;

/// What of a git directory decides what git runs.
const DECIDES: [&str; 7] = [
    "config",
    "config.worktree",
    "hooks",
    "commondir",
    "gitdir",
    "info/attributes",
    "objects/info/alternates",
];
/// Keys whose value is a path that git runs or obeys, in whatever section: too much is protected rather than too little.
const PATH_KEYS: [&str; 4] = ["hookspath", "fsmonitor", "attributesfile", "path"];
/// Keys whose value is a command that git runs by itself; src/profile/git-redirects.ts says when.
const COMMAND_KEYS: [&str; 14] = [
    "sshcommand",
    "pager",
    "editor",
    "askpass",
    "gitproxy",
    "alternaterefscommand",
    "clean",
    "smudge",
    "process",
    "command",
    "textconv",
    "external",
    "driver",
    "helper",
];
const MOST_WORDS: usize = 64;
/// Bytes read of a pointer or configuration file.
const READ: u64 = 256 << 10;

/// Protects what git obeys if the directory at `path`, which holds `names`, is a repository or points to one.
pub fn note(root: &Root, path: &[u8], names: &[(Vec<u8>, FileType, u64)]) {
    let kind = |wanted: &[u8]| names.iter().find(|(name, ..)| name == wanted).map(|(_, kind, _)| *kind);
    let has = |wanted: &[u8]| kind(wanted).is_some();
    if has(b"HEAD") && (has(b"commondir") || (has(b"objects") && has(b"refs"))) {
        let worktree = match path.strip_suffix(b".git") {
            Some(above) => above.strip_suffix(b"/").unwrap_or(above),
            None => path,
        };
        keep(root, path, worktree);
    }
    if kind(b".git").is_some_and(|kind| kind.is_file()) {
        let pointer = join(path, b".git");
        if let Some(store) = named_in(root, &pointer, b"gitdir:") {
            keep(root, &store, path);
        }
    }
}

/// Protects the git directory at `dir`, its common directory and what their settings name.
fn keep(root: &Root, dir: &[u8], worktree: &[u8]) {
    let common = named_in(root, &join(dir, b"commondir"), b"");
    for dir in [Some(dir.to_vec()), common].into_iter().flatten() {
        for name in DECIDES {
            keep_path(root, &join(&dir, name.as_bytes()));
        }
        for name in ["config", "config.worktree"] {
            let Some(text) = read(root, &join(&dir, name.as_bytes())) else { continue };
            for (key, value) in settings(&text) {
                let base = if key == "path" { &dir } else { worktree };
                if PATH_KEYS.contains(&&*key) {
                    if let Some(path) = place(root, base, value.as_bytes()) {
                        keep_path(root, &path);
                    }
                } else {
                    keep_scripts(root, worktree, &value);
                }
            }
        }
    }
}

/// Protects the files of the working tree that a command names; a directory there is no program.
fn keep_scripts(root: &Root, worktree: &[u8], command: &str) {
    let between = |char: char| char.is_whitespace() || "'\"`;&|()<>$!=,".contains(char);
    for word in command.split(between).filter(|word| !word.is_empty()).take(MOST_WORDS) {
        let Some(path) = place(root, worktree, word.as_bytes()) else { continue };
        let there = fs::statat(&root.fd, &path[..], fs::AtFlags::SYMLINK_NOFOLLOW);
        if there.is_ok_and(|stat| !sys::kind(&stat).is_dir()) {
            keep_path(root, &path);
        }
    }
}

/// Protects a path, the links on the way to it, and where they lead.
fn keep_path(root: &Root, path: &[u8]) {
    root.rules.keep(path);
    for end in (0..path.len()).filter(|at| path[*at] == b'/').chain([path.len()]) {
        let linked = fs::statat(&root.fd, &path[..end], fs::AtFlags::SYMLINK_NOFOLLOW);
        if linked.is_ok_and(|stat| sys::kind(&stat).is_symlink()) {
            root.rules.keep(&path[..end]);
        }
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let real = fs::openat2(&root.fd, path, flags, Mode::empty(), beneath)
        .and_then(|fd| fs::readlinkat(fs::CWD, sys::proc_path(&fd), Vec::new()));
    if let Some(real) = real.ok().and_then(|real| within(&root.fd, real.as_bytes())) {
        root.rules.keep(&real);
    }
}

/// The path that the file at `path` names after `key`, relative to the root; None when it leads out of it.
fn named_in(root: &Root, path: &[u8], key: &[u8]) -> Option<Vec<u8>> {
    let text = read(root, path)?;
    let line = text.lines().find_map(|line| line.as_bytes().strip_prefix(key))?;
    place(root, parent(path), line.trim_ascii())
}

fn place(root: &Root, base: &[u8], target: &[u8]) -> Option<Vec<u8>> {
    let usable = !target.is_empty() && !target.starts_with(b"~");
    if usable { resolve(&root.fd, base, target) } else { None }
}

fn read(root: &Root, path: &[u8]) -> Option<String> {
    let fd = sys::open(&root.fd, path, OFlags::RDONLY, 0).ok()?;
    if !sys::kind(&sys::stat_fd(&fd).ok()?).is_file() {
        return None;
    }
    let mut text = Vec::new();
    std::fs::File::from(fd).take(READ).read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// Settings of a git configuration file whose value is a path or a command. Sections are not looked at.
pub fn settings(text: &str) -> Vec<(String, String)> {
    let text = text.replace("\\\r\n", "").replace("\\\n", "");
    text.lines().filter_map(setting).collect()
}

fn setting(line: &str) -> Option<(String, String)> {
    let (left, value) = line.split_once('=')?;
    let key = left.rsplit(']').next()?.trim().to_ascii_lowercase();
    let value = unquote(value.trim());
    let named = PATH_KEYS.contains(&&*key) || COMMAND_KEYS.contains(&&*key);
    let path = named && !matches!(&*value, "" | "true" | "false");
    path.then_some((key, value))
}

/// The value without quotes, escapes and a comment behind it.
fn unquote(value: &str) -> String {
    let (mut text, mut quoted, mut chars) = (String::new(), false, value.chars());
    while let Some(char) = chars.next() {
        match char {
            '"' => quoted = !quoted,
            '\\' => text.extend(chars.next()),
            '#' | ';' if !quoted => break,
            other => text.push(other),
        }
    }
    text.trim_end().to_owned()
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}

fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|b| *b == b'/').map_or(b"", |at| &path[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_name_a_path_are_found_in_every_spelling() {
        let text = "[core]\n\thooksPath = \"my hooks\" ; why\n[core] fsMonitor=tools/\\\nmonitor\n\
            [include]\r\n path = ../extra.cfg # more\r\n[core]\n fsmonitor = true\n bare = false\n";
        let found = settings(text);
        let values: Vec<&str> = found.iter().map(|(_, value)| &**value).collect();
        assert_eq!(values, ["my hooks", "tools/monitor", "../extra.cfg"]);
    }
}
