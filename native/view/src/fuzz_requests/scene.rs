//! A view whose requests a test makes itself, and what holds after each of them.
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ambit_shared::journal::Journal;
use fuse_backend_rs::api::server::Server;
use rustix::fs::MemfdFlags;
use serde_json::json;

use crate::hash::Hasher;
use crate::request::{Fault, check};
use crate::serve;
use crate::spec::ViewSpec;
use crate::view::View;

pub const SECRET: &[u8] = b"what-nobody-inside-may-read";
pub const QUOTA: u64 = 1 << 20;

/// Two roots, one to write and one under review, with hidden and protected names, beside what is outside of them.
pub struct Scene {
    pub dir: PathBuf,
    pub view: Arc<View>,
    pub server: Server<Arc<View>>,
    answers: File,
    pub reply: Vec<u8>,
    pub unique: u64,
    pub nodes: Vec<u64>,
    pub handles: Vec<(u64, u64)>,
    pub guarded: BTreeMap<PathBuf, (Vec<u8>, u32)>,
    /// Opcodes that were answered without an error.
    pub served: BTreeSet<u32>,
}

const GUARDED: [&str; 5] =
    ["outside/key", "root0/secret/key", "root1/secret/key", "root0/.git/config", "root1/.git/config"];

impl Scene {
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("ambit-requests-{}-{number}", std::process::id()));
        for path in GUARDED.into_iter().chain(["root0/dir/file", "root1/dir/file", "root0/f", "root1/f"]) {
            fs::create_dir_all(dir.join(path).parent().unwrap()).unwrap();
            let text = if GUARDED.contains(&path) { SECRET } else { b"plain" };
            fs::write(dir.join(path), text).unwrap();
        }
        fs::hard_link(dir.join("root0/secret/key"), dir.join("root0/way")).unwrap();
        symlink("../outside/key", dir.join("root0/out")).unwrap();
        let root = |index: u32, access: &str| {
            json!({ "index": index, "rule": null, "path": dir.join(format!("root{index}")), "access": access,
                "label": "internal", "hide": ["secret", "**/.env"], "protect": [".git/**"], "review": [],
                "upper": if index == 1 { Some(dir.join("upper")) } else { None }, "nested": [] })
        };
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let spec = json!({ "version": 1, "session": "s", "journal": dir.join("view.wal"),
            "owner": { "hostUid": uid, "hostGid": gid, "uid": 1000, "gid": 1000 },
            "quota": { "bytes": QUOTA, "inodes": 500 }, "roots": [root(0, "write"), root(1, "review")] });
        let spec = ViewSpec::parse(spec.to_string().as_bytes()).unwrap();
        let journal = Journal::open(&spec.journal).unwrap();
        let (hasher, _worker) = Hasher::new();
        let view = Arc::new(View::open(&spec, journal, Arc::new(hasher), 256).unwrap());
        let mut scene = Scene {
            server: Server::new(view.clone()),
            view,
            answers: File::from(rustix::fs::memfd_create("answers", MemfdFlags::CLOEXEC).unwrap()),
            reply: vec![0; (1 << 20) + 4096],
            unique: 0,
            nodes: vec![1, 2, 3],
            handles: vec![(2, 0)],
            guarded: BTreeMap::new(),
            served: BTreeSet::new(),
            dir,
        };
        scene.guarded = scene.look();
        scene
    }

    pub fn look(&self) -> BTreeMap<PathBuf, (Vec<u8>, u32)> {
        let all = GUARDED.into_iter().map(|path| self.dir.join(path));
        all.map(|path| {
            (
                path.clone(),
                (fs::read(&path).unwrap_or_default(), path.symlink_metadata().map_or(0, |m| m.mode())),
            )
        })
        .collect()
    }

    pub fn size(&self) -> i64 {
        ["root0", "root1", "upper/files"].iter().map(|part| blocks(&self.dir.join(part))).sum()
    }

    /// Sends one message; what came back.
    pub fn send(&mut self, message: &[u8]) -> Vec<u8> {
        let mut message = message.to_vec();
        let (form, foreign) = (check(&message), message.len());
        let served = serve::answer(&self.server, &mut message, &self.answers, &mut self.reply);
        let mut reply = Vec::new();
        self.answers.seek(SeekFrom::Start(0)).unwrap();
        self.answers.read_to_end(&mut reply).unwrap();
        self.answers.set_len(0).unwrap();
        self.answers.seek(SeekFrom::Start(0)).unwrap();
        let silent = || matches!(u32::from_ne_bytes(message[4..8].try_into().unwrap()), 2 | 36 | 41 | 42);
        match form {
            Err(Fault::Foreign) => assert!(served.is_err() && reply.is_empty(), "{foreign} bytes"),
            _ if silent() => assert!(served.is_ok() && reply.is_empty()),
            _ => {
                assert!(served.is_ok());
                let word = |at: usize| u32::from_ne_bytes(reply[at..at + 4].try_into().unwrap());
                assert_eq!(word(0) as usize, reply.len(), "one whole answer");
                assert_eq!(reply[8..16], message[8..16], "to the one who asked");
                let error = -(word(4) as i32);
                assert!((0..=133).contains(&error), "error {error}");
                assert!(error == 0 || reply.len() == 16);
                if error == 0 {
                    self.served.insert(u32::from_ne_bytes(message[4..8].try_into().unwrap()));
                }
            }
        }
        assert!(!reply.windows(SECRET.len()).any(|part| part == SECRET), "{}", message.escape_ascii());
        reply
    }

    pub fn request(&mut self, opcode: u32, node: u64, body: &[u8]) -> Vec<u8> {
        self.unique += 1;
        self.send(&message(opcode, self.unique, node, body))
    }

    /// Keeps what an answer gave out.
    pub fn learn(&mut self, opcode: u32, node: u64, reply: &[u8]) {
        let long = |at: usize| u64::from_ne_bytes(reply[at..at + 8].try_into().unwrap());
        if matches!(opcode, 1 | 6 | 8 | 9 | 13 | 35) && reply.len() >= 16 + 128 && long(16) != 0 {
            self.nodes.push(long(16));
        }
        match opcode {
            14 if reply.len() == 32 => self.handles.push((node, long(16))),
            35 if reply.len() == 160 => self.handles.push((long(16), long(144))),
            _ => {}
        }
    }

    /// Lets go of everything that was ever given out, as the kernel does at an unmount.
    pub fn let_go(&mut self) {
        let open: Vec<(u64, u64)> =
            self.view.handles.read().unwrap().iter().map(|(id, file)| (file.node, *id)).collect();
        for (node, handle) in open {
            self.request(18, node, &[&handle.to_ne_bytes()[..], &[0; 16]].concat());
        }
        let nodes = self.view.tree.lock().unwrap().all();
        for (node, ..) in nodes {
            self.unique += 1;
            let forget = message(2, self.unique, node, &u64::MAX.to_ne_bytes());
            self.send(&forget);
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

pub fn message(opcode: u32, unique: u64, node: u64, body: &[u8]) -> Vec<u8> {
    let length = (40 + body.len()) as u32;
    let [opcode, length] = [opcode.to_ne_bytes(), length.to_ne_bytes()];
    [&length, &opcode, &unique.to_ne_bytes()[..], &node.to_ne_bytes(), &[0; 16], body].concat()
}

/// Allocated bytes of all files beneath `dir`.
fn blocks(dir: &Path) -> i64 {
    let mut sum = 0;
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(meta) = entry.path().symlink_metadata() else { continue };
        sum += if meta.is_dir() { blocks(&entry.path()) } else { meta.blocks() as i64 * 512 };
    }
    sum
}
