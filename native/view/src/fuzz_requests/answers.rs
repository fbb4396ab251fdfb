//! Single requests that no polite kernel makes, and their answers.
use std::fs;

use super::scene::Scene;

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
