//! Seeded, bounded fuzzing of the requests themselves. The kernel is a polite client; a microVM's guest speaks FUSE over
//! a channel and may send anything. Whatever it sends: one answer or none, as the kind of request has it; nothing
//! hidden, protected or outside is read or changed; and when it lets go of all that it got, nothing is left.
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

use crate::fuzz::{Numbers, fuzz};
use crate::hash::Hasher;
use crate::request::{Fault, check};
use crate::serve;
use crate::spec::ViewSpec;
use crate::view::View;

mod stream;

const SECRET: &[u8] = b"what-nobody-inside-may-read";
const QUOTA: u64 = 1 << 20;
/// Requests of one scene.
const REQUESTS: usize = 400;

/// Two roots, one to write and one under review, with hidden and protected names, beside what is outside of them.
struct Scene {
    dir: PathBuf,
    view: Arc<View>,
    server: Server<Arc<View>>,
    answers: File,
    reply: Vec<u8>,
    unique: u64,
    nodes: Vec<u64>,
    handles: Vec<(u64, u64)>,
    guarded: BTreeMap<PathBuf, (Vec<u8>, u32)>,
    /// Opcodes that were answered without an error.
    served: BTreeSet<u32>,
}

const GUARDED: [&str; 5] =
    ["outside/key", "root0/secret/key", "root1/secret/key", "root0/.git/config", "root1/.git/config"];

impl Scene {
    fn new() -> Self {
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

    fn look(&self) -> BTreeMap<PathBuf, (Vec<u8>, u32)> {
        let all = GUARDED.into_iter().map(|path| self.dir.join(path));
        all.map(|path| {
            (
                path.clone(),
                (fs::read(&path).unwrap_or_default(), path.symlink_metadata().map_or(0, |m| m.mode())),
            )
        })
        .collect()
    }

    fn size(&self) -> i64 {
        ["root0", "root1", "upper/files"].iter().map(|part| blocks(&self.dir.join(part))).sum()
    }

    /// Sends one message; what came back.
    fn send(&mut self, message: &[u8]) -> Vec<u8> {
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

    fn request(&mut self, opcode: u32, node: u64, body: &[u8]) -> Vec<u8> {
        self.unique += 1;
        self.send(&message(opcode, self.unique, node, body))
    }

    /// Keeps what an answer gave out.
    fn learn(&mut self, opcode: u32, node: u64, reply: &[u8]) {
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
    fn let_go(&mut self) {
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

fn message(opcode: u32, unique: u64, node: u64, body: &[u8]) -> Vec<u8> {
    let length = (40 + body.len()) as u32;
    let [opcode, length] = [opcode.to_ne_bytes(), length.to_ne_bytes()];
    [&length, &opcode, &unique.to_ne_bytes()[..], &node.to_ne_bytes(), &[0; 16], body].concat()
}

const NAMES: [&[u8]; 24] = [
    b"f",
    b"dir",
    b"file",
    b"way",
    b"out",
    b"a",
    b"b",
    b"c",
    b"new",
    b"0",
    b"1",
    b"secret",
    b"key",
    b".env",
    b".git",
    b"config",
    b"..",
    b".",
    b"",
    b"../outside/key",
    b"/etc/passwd",
    b"a/b",
    b"\xff\xfe",
    b"secret/key",
];

fn name(numbers: &mut Numbers) -> Vec<u8> {
    match numbers.below(30) {
        0 => vec![b'n'; 255],
        1 => vec![b'n'; 256],
        2 => vec![b'n'; 4096],
        3 => numbers.bytes(12),
        _ => NAMES[numbers.below(NAMES.len())].to_vec(),
    }
}

fn number(numbers: &mut Numbers) -> u64 {
    match numbers.below(8) {
        0 => u64::MAX,
        1 => i64::MAX as u64,
        2 => 1 << 63,
        3 => 1 << 20,
        4 => 4096,
        5 => numbers.next(),
        _ => numbers.below(100) as u64,
    }
}

const OPCODES: [u32; 43] = [
    1, 1, 1, 2, 3, 4, 4, 5, 6, 8, 9, 9, 10, 11, 12, 13, 14, 14, 14, 15, 16, 16, 17, 18, 20, 21, 22, 23, 24,
    25, 26, 28, 30, 35, 35, 36, 38, 42, 43, 44, 44, 45, 46,
];

/// A request whose fields mean something more often than not.
fn body(scene: &Scene, opcode: u32, numbers: &mut Numbers, node: u64, handle: u64) -> Vec<u8> {
    let fixed = match opcode {
        2 | 9 | 12 | 13 | 14 | 21 | 22 | 23 | 27 | 36 | 42 => 8,
        3 | 8 | 20 | 26 | 30 | 35 | 45 => 16,
        4 => 88,
        15 | 16 | 28 | 44 => 40,
        18 | 25 | 29 | 46 => 24,
        43 => 32,
        _ => 0,
    };
    let mut fields: Vec<u8> = (0..fixed / 8).flat_map(|_| number(numbers).to_ne_bytes()).collect();
    let mut put = |at: usize, bytes: &[u8]| fields[at..at + bytes.len()].copy_from_slice(bytes);
    let (two, flags) =
        (numbers.below(2), [0u32, 1, 2, 0o1000, 0o1001, 0o2, 0o3, 0o100, 0o2001][numbers.below(9)]);
    match opcode {
        4 => {
            put(0, &(1u32 << numbers.below(11)).to_ne_bytes());
            put(8, &handle.to_ne_bytes());
            put(68, &[0o644u32, 0o6777, 0][numbers.below(3)].to_ne_bytes());
        }
        12 | 13 | 45 => put(0, &scene.nodes[numbers.below(scene.nodes.len())].to_ne_bytes()),
        14 => put(0, &flags.to_ne_bytes()),
        8 => put(0, &[0o100644u32, 0o010644, 0o020644, 0o140777, 0o106777][numbers.below(5)].to_ne_bytes()),
        9 => put(0, &0o755u32.to_ne_bytes()),
        35 => put(0, &[flags.to_ne_bytes(), 0o644u32.to_ne_bytes()].concat()),
        15 | 16 | 18 | 20 | 25 | 43 | 46 => put(0, &handle.to_ne_bytes()),
        _ => {}
    }
    if opcode == 45 {
        put(8, &[0u32, 1, 2, 4, 7][numbers.below(5)].to_ne_bytes());
    }
    if matches!(opcode, 15 | 28 | 44) {
        put(16, &[64u32, 4096, 1 << 20, u32::MAX][numbers.below(4)].to_ne_bytes());
        if two == 0 {
            put(8, &0u64.to_ne_bytes());
        }
    }
    if opcode == 43 {
        put(24, &[0u32, 1, 3, 16][numbers.below(4)].to_ne_bytes());
    }
    match opcode {
        16 => {
            let data = numbers.bytes(200);
            put(16, &(data.len() as u32).to_ne_bytes());
            put(8, &(numbers.below(1 << 16) as u64).to_ne_bytes());
            fields.extend(data);
        }
        21 => {
            let value = numbers.bytes(40);
            put(0, &(value.len() as u32).to_ne_bytes());
            fields.extend([b"user.a\0", &value[..]].concat());
        }
        22 | 24 => fields.extend(b"user.a\0"),
        1 | 8 | 9 | 10 | 11 | 13 | 35 => fields.extend([name(numbers), vec![0]].concat()),
        6 | 12 | 45 => fields.extend([name(numbers), vec![0], name(numbers), vec![0]].concat()),
        42 => {
            put(0, &1u32.to_ne_bytes());
            fields.extend([node.to_ne_bytes(), number(numbers).to_ne_bytes()].concat());
        }
        _ => {}
    }
    fields
}

/// A request, or something like one, and whose answer is worth keeping: opcode and node.
fn compose(scene: &mut Scene, numbers: &mut Numbers) -> (Vec<u8>, Option<(u32, u64)>) {
    let opcode =
        if numbers.below(40) == 0 { numbers.below(60) as u32 } else { OPCODES[numbers.below(OPCODES.len())] };
    let (of, handle) = scene.handles[numbers.below(scene.handles.len())];
    let node = match numbers.below(12) {
        0 => number(numbers),
        1..5 => of,
        _ => scene.nodes[numbers.below(scene.nodes.len())],
    };
    let handle = if numbers.below(12) == 0 { number(numbers) } else { handle };
    let body = body(scene, opcode, numbers, node, handle);
    scene.unique += 1;
    let bytes = message(opcode, scene.unique, node, &body);
    match numbers.below(16) {
        // Changed anywhere, and its length still right.
        0 => {
            let mut bytes = numbers.mutate(&bytes);
            if bytes.len() >= 4 {
                let length = (bytes.len() as u32).to_ne_bytes();
                bytes[..4].copy_from_slice(&length);
            }
            (bytes, None)
        }
        1 => (numbers.mutate(&bytes), None),
        _ => (bytes, Some((opcode, node))),
    }
}

fn any(scene: &mut Scene, numbers: &mut Numbers) {
    let (bytes, whole) = compose(scene, numbers);
    let reply = scene.send(&bytes);
    if let Some((opcode, node)) = whole {
        scene.learn(opcode, node, &reply);
    }
}

#[test]
fn fuzz_requests() {
    let mut served = BTreeSet::new();
    fuzz("requests", |numbers| {
        let mut scene = Scene::new();
        let before = scene.size();
        for _ in 0..REQUESTS {
            any(&mut scene, numbers);
        }
        assert_eq!(scene.look(), scene.guarded, "what is hidden, protected or outside changed");
        assert!(scene.view.record.alive().is_ok(), "the journal died");
        scene.let_go();
        let nodes = scene.view.tree.lock().unwrap().all();
        assert_eq!(nodes.len(), 2, "nodes that nobody holds: {nodes:?}");
        assert_eq!(scene.view.handles.read().unwrap().len(), 0);
        let grown = scene.size() - before;
        assert!(grown <= QUOTA as i64, "{grown} bytes more on the disk");
        served.append(&mut scene.served);
    });
    println!("served: {served:?}");
    assert!(served.len() >= 20, "it knocks, but nothing opens: {served:?}");
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

/// The bare names that would lead elsewhere are refused here, not by a kernel.
#[test]
fn names_that_are_paths_are_refused() {
    let mut scene = Scene::new();
    let error = |reply: Vec<u8>| -i32::from_ne_bytes(reply[4..8].try_into().unwrap());
    for (name, want) in [
        (&b".."[..], libc::EINVAL),
        (b".", libc::EINVAL),
        (b"", libc::EINVAL),
        (b"../outside/key", libc::EINVAL),
        (b"dir/file", libc::EINVAL),
        (b"/etc/passwd", libc::EINVAL),
        (&[b'n'; 256], libc::ENAMETOOLONG),
        (&[b'n'; 4096], libc::ENAMETOOLONG),
    ] {
        for root in [2, 3] {
            let text = [name, b"\0"].concat();
            let two = |first: &[u8], second: &[u8]| [first, b"\0", second, b"\0"].concat();
            let file = scene.request(1, root, b"f\0");
            let file: [u8; 8] = file[16..24].try_into().unwrap();
            let here = root.to_ne_bytes();
            let mode = 0o100644u64.to_ne_bytes();
            let flags = [&[0; 12][..], &[0; 4]].concat();
            for (opcode, body) in [
                (1, text.clone()),
                (6, two(name, b"target")),
                (8, [&mode[..], &[0; 8], &text].concat()),
                (9, [&[0; 8], &text[..]].concat()),
                (10, text.clone()),
                (11, text.clone()),
                (12, [&here[..], &two(name, b"x")].concat()),
                (12, [&here[..], &two(b"f", name)].concat()),
                (45, [&here[..], &[2, 0, 0, 0, 0, 0, 0, 0], &two(b"f", name)].concat()),
                (13, [&file[..], &text].concat()),
                (35, [&flags[..], &text].concat()),
            ] {
                assert_eq!(
                    error(scene.request(opcode, root, &body)),
                    want,
                    "opcode {opcode}, {}",
                    name.escape_ascii()
                );
            }
        }
    }
    // The control: a plain name passes each of them.
    for (opcode, body) in [
        (6, &b"link\0target\0"[..]),
        (9, b"\0\0\0\0\0\0\0\0made\0"),
        (11, b"made\0"),
        (1, b"link\0"),
        (10, b"link\0"),
    ] {
        assert_eq!(error(scene.request(opcode, 2, body)), 0, "opcode {opcode}");
    }
    assert_eq!(scene.look(), scene.guarded);
}

/// A close is no more than a request in a queue, which the end of the mount empties.
#[test]
fn what_is_open_at_the_end_is_on_record() {
    let mut scene = Scene::new();
    let flags = (libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL) as u32;
    let head = [&flags.to_ne_bytes()[..], &0o644u32.to_ne_bytes(), &[0; 8]].concat();
    let size = 16 + 128;
    for name in [&b"held\0"[..], b"empty\0"] {
        let made = scene.request(35, 2, &[&head[..], name].concat());
        let number = |at: usize| u64::from_ne_bytes(made[at..at + 8].try_into().unwrap());
        let (node, handle) = (number(16), number(size));
        if name == b"held\0" {
            let write = [&handle.to_ne_bytes()[..], &[0; 8], &4u64.to_ne_bytes(), &[0; 16], b"held"].concat();
            assert_eq!(scene.request(16, node, &write)[4..8], [0; 4]);
        }
    }
    scene.view.record_open();
    scene.view.record_open();
    let journal = fs::read(scene.dir.join("view.wal")).unwrap();
    let journal = String::from_utf8_lossy(&journal);
    for (name, bytes) in [("held", 4), ("empty", 0)] {
        let path = scene.dir.join("root0").join(name);
        let said = format!("\"k\":\"file.write\",\"path\":\"{}\",\"size\":{bytes}", path.display());
        assert_eq!(journal.matches(&said).count(), 1, "{name}");
    }
    scene.let_go();
}

/// No kernel of ours asks for that; a guest's may. On the host such a file is open for both.
#[test]
fn what_is_opened_to_be_written_is_not_read() {
    let mut scene = Scene::new();
    let node = |reply: Vec<u8>| u64::from_ne_bytes(reply[16..24].try_into().unwrap());
    let one = node(scene.request(1, 2, b"f\0"));
    for (flags, want) in [(libc::O_WRONLY, libc::EBADF), (libc::O_RDWR, 0), (libc::O_RDONLY, 0)] {
        let handle = node(scene.request(14, one, &(flags as u64).to_ne_bytes()));
        let read = [&handle.to_ne_bytes()[..], &[0; 8], &64u64.to_ne_bytes(), &[0; 16]].concat();
        let reply = scene.request(15, one, &read);
        assert_eq!(-i32::from_ne_bytes(reply[4..8].try_into().unwrap()), want, "flags {flags}");
        assert_eq!(scene.request(18, one, &[&handle.to_ne_bytes()[..], &[0; 16]].concat())[4..8], [0; 4]);
    }
    scene.let_go();
}

/// What a handle of one file allows says nothing of another, and an inflated FORGET takes no file from the record.
#[test]
fn handles_belong_to_their_file() {
    let mut scene = Scene::new();
    let node = |reply: Vec<u8>| u64::from_ne_bytes(reply[16..24].try_into().unwrap());
    let error = |reply: &[u8]| -i32::from_ne_bytes(reply[4..8].try_into().unwrap());
    let one = node(scene.request(1, 2, b"f\0"));
    let dir = node(scene.request(1, 2, b"dir\0"));
    let other = node(scene.request(1, dir, b"file\0"));
    let handle = node(scene.request(14, one, &2u64.to_ne_bytes()));
    let write = |at: u64, size: usize| {
        [
            &handle.to_ne_bytes()[..],
            &at.to_ne_bytes(),
            &(size as u64).to_ne_bytes(),
            &[0; 16],
            &vec![b'w'; size],
        ]
        .concat()
    };
    assert_eq!(error(&scene.request(16, other, &write(0, 3))), libc::EBADF);
    assert_eq!(error(&scene.request(16, one, &write(0, 3))), 0);
    // SETATTR with FATTR_SIZE and FATTR_FH: cut `other` by the handle of `one`.
    let mut cut = vec![0; 88];
    cut[0] = 0x48;
    cut[8..16].copy_from_slice(&handle.to_ne_bytes());
    assert_eq!(error(&scene.request(4, other, &cut)), 0);
    assert_eq!(fs::metadata(scene.dir.join("root0/f")).unwrap().len(), 5);
    assert_eq!(fs::metadata(scene.dir.join("root0/dir/file")).unwrap().len(), 0);
    // A length below zero is not room for more.
    let claim = [&handle.to_ne_bytes()[..], &[0; 8], &(1u64 << 63).to_ne_bytes(), &[0; 8]].concat();
    assert_ne!(error(&scene.request(43, one, &claim)), 0);
    assert_eq!(error(&scene.request(16, one, &write(0, 900_000))), 0);
    assert_eq!(error(&scene.request(16, one, &write(900_000, 900_000))), libc::EDQUOT);
    scene.request(2, one, &u64::MAX.to_ne_bytes());
    assert_eq!(error(&scene.request(18, one, &[&handle.to_ne_bytes()[..], &[0; 16]].concat())), 0);
    let journal = fs::read(scene.dir.join("view.wal")).unwrap();
    let said = format!("\"k\":\"file.write\",\"path\":\"{}\"", scene.dir.join("root0/f").display());
    assert!(journal.windows(said.len()).any(|part| part == said.as_bytes()), "the write is on record");
    scene.let_go();
    assert_eq!(scene.view.tree.lock().unwrap().all().len(), 2);
}
