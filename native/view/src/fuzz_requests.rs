//! Seeded, bounded fuzzing of the requests themselves. The kernel is a polite client; a microVM's guest speaks FUSE over
//! a channel and may send anything. Whatever it sends: one answer or none, as the kind of request has it; nothing
//! hidden, protected or outside is read or changed; and when it lets go of all that it got, nothing is left.
use std::collections::BTreeSet;

use crate::fuzz::{Numbers, fuzz};

use scene::{QUOTA, Scene, message};

mod answers;
mod scene;
mod stream;

/// Requests of one scene.
const REQUESTS: usize = 400;

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
