//! Seeded, bounded fuzzing of what comes from outside: the spec, orders, path texts, git's settings, and the layer of
//! changes, which the agent wrote. `./dev fuzz NAME` makes it longer.
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::order::Order;
use crate::record::{path_bytes, path_text};
use crate::spec::ViewSpec;
use crate::{git, review};

/// xorshift64*.
pub struct Numbers(u64);

impl Numbers {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    pub fn below(&mut self, limit: usize) -> usize {
        self.next() as usize % limit.max(1)
    }

    pub fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most)).map(|_| self.next() as u8).collect()
    }

    /// A seed, changed in a few places.
    pub fn mutate(&mut self, seed: &[u8]) -> Vec<u8> {
        let mut input = seed.to_vec();
        for _ in 0..1 + self.below(6) {
            let at = self.below(input.len() + 1);
            match self.below(5) {
                0 if at < input.len() => input[at] = self.next() as u8,
                1 if at < input.len() => drop(input.remove(at)),
                2 => input.truncate(at),
                3 => drop(input.splice(at..at, seed[self.below(seed.len())..].iter().take(20).copied())),
                _ => input.insert(at, b"\"\\{}[]:,\0\n-9eu"[self.below(14)]),
            }
        }
        input
    }
}

/// Runs `act` for its share of time, each time with other numbers.
pub fn fuzz(name: &str, mut act: impl FnMut(&mut Numbers)) {
    ambit_shared::fuzz::fuzz_by_number(name, |seed| act(&mut Numbers(seed | 1 << 40)));
}

#[test]
fn fuzz_spec_and_orders() {
    let root = json!({ "index": 0, "rule": "files[0]", "path": "/p", "access": "write", "label": "internal",
        "hide": ["**/.env"], "protect": [], "review": ["x"], "upper": "/u", "nested": ["a/b"] });
    let spec = json!({ "version": 1, "session": "s", "journal": "/j", "roots": [root],
        "owner": { "hostUid": 1, "hostGid": 1, "uid": 0, "gid": 0 }, "quota": { "bytes": 1, "inodes": 1 } });
    let spec = spec.to_string().into_bytes();
    assert!(ViewSpec::parse(&spec).is_ok());
    let order = br#"{"op":"narrow","root":0,"hide":["**/x"],"protect":[]}"#;
    assert!(Order::parse(std::str::from_utf8(order).unwrap()).is_some());
    fuzz("spec-and-orders", |numbers| {
        for _ in 0..200 {
            if let Ok(spec) = ViewSpec::parse(&numbers.mutate(&spec)) {
                assert!(spec.version == 1 && spec.roots.iter().all(|root| root.path.is_absolute()));
            }
            let _ = Order::parse(&String::from_utf8_lossy(&numbers.mutate(order)));
        }
    });
}

#[test]
fn fuzz_names_and_settings() {
    let config = b"[core]\n\thooksPath = \"a b\" ; x\n[include]\npath=../c \\\n d\n";
    fuzz("names-and-settings", |numbers| {
        for _ in 0..200 {
            let bytes = numbers.bytes(80);
            assert_eq!(path_bytes(&path_text(&bytes)), bytes);
            let _ = path_bytes(&String::from_utf8_lossy(&numbers.mutate(b"a\\x4\\\\x\\xfg\\")));
            for (_, value) in git::settings(&String::from_utf8_lossy(&numbers.mutate(config))) {
                assert!(!value.is_empty());
            }
        }
    });
}

/// A project, a layer of changes as an agent may leave it, and a directory that nothing may touch.
struct Scene(PathBuf);

impl Scene {
    fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("ambit-fuzz-review-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        for path in ["root/dir", "upper/files", "upper/meta", "outside/kept"] {
            fs::create_dir_all(dir.join(path)).unwrap();
        }
        fs::write(dir.join("outside/secret"), "outside").unwrap();
        fs::write(dir.join("root/file"), "host").unwrap();
        symlink("../outside", dir.join("root/way")).unwrap();
        Scene(dir.canonicalize().unwrap())
    }

    /// Names, links, pipes and directories at random, some of them where the host has something else.
    fn fill(&self, numbers: &mut Numbers) {
        let files = self.0.join("upper/files");
        let mut folders = vec![files.clone()];
        for _ in 0..numbers.below(14) {
            let odd = numbers.bytes(6);
            let known: [&[u8]; 6] = [b"file", b"dir", b"way", b"new", b".env", &odd];
            let name: Vec<u8> =
                known[numbers.below(6)].iter().copied().filter(|b| !matches!(b, 0 | b'/')).collect();
            if matches!(&name[..], b"" | b"." | b"..") {
                continue;
            }
            let path = folders[numbers.below(folders.len())].join(std::ffi::OsStr::from_bytes(&name));
            // Nothing twice: writing would follow the first one, or wait for a reader of it.
            if path.symlink_metadata().is_ok() {
                continue;
            }
            let targets = ["../outside/secret", "..", "/etc/passwd", "way/kept", "file", "new", "."];
            match numbers.below(5) {
                0 => drop(symlink(targets[numbers.below(7)], &path)),
                1 if fs::create_dir(&path).is_ok() => folders.push(path),
                2 => drop(rustix::fs::mknodat(
                    rustix::fs::CWD,
                    &path,
                    rustix::fs::FileType::Fifo,
                    0o600.into(),
                    0,
                )),
                _ => drop(fs::write(&path, numbers.bytes(300))),
            }
        }
        let mark = br#"{"path":"file","hidden":true,"base":{"kind":"file","size":4,"mtime":"1","mode":420,"sha256":null}}"#;
        let mut marks = Vec::new();
        for _ in 0..numbers.below(4) {
            let line = if numbers.below(2) == 0 { mark.to_vec() } else { numbers.mutate(mark) };
            let path =
                [&b"file"[..], b"dir", b"way/secret", b"../outside/secret", b"/etc/passwd"][numbers.below(5)];
            marks.extend(
                String::from_utf8_lossy(&line)
                    .replace("file\",\"h", &format!("{}\",\"h", String::from_utf8_lossy(path)))
                    .bytes(),
            );
            marks.push(b'\n');
        }
        fs::write(self.0.join("upper/meta/changes.jsonl"), marks).unwrap();
    }

    fn outside(&self) -> (Vec<u8>, usize) {
        let names = fs::read_dir(self.0.join("outside")).unwrap().count();
        (fs::read(self.0.join("outside/secret")).unwrap(), names)
    }
}

fn ask(dir: &Path, op: &str) -> Result<serde_json::Value, String> {
    let spec = json!({ "version": 1, "op": op, "root": dir.join("root"), "upper": dir.join("upper"),
        "owner": null, "paths": null });
    review::answer(spec.to_string().as_bytes())
}

#[test]
fn fuzz_review_layer() {
    fuzz("review-layer", |numbers| {
        let scene = Scene::new();
        scene.fill(numbers);
        for op in ["list", "show", "apply", "drop"] {
            let _ = ask(&scene.0, op);
            assert_eq!(scene.outside(), (b"outside".to_vec(), 2), "{op} went outside the root");
        }
        assert!(scene.0.join("root/way").symlink_metadata().is_ok());
        let _ = fs::remove_dir_all(&scene.0);
    });
}
