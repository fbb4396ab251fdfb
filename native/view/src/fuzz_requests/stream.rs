//! The same requests on the way that a guest's take: one stream, cut anywhere, with lengths that lie and numbers that
//! come twice. What comes back are whole answers, and the view is as if each request had come alone.
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread::spawn;

use rustix::event::{PollFd, PollFlags, poll};

use super::compose;
use super::scene::{SECRET, Scene, message};
use crate::channel::{Channel, Outbox};
use crate::fuzz::{Numbers, fuzz};
use crate::serve;

const INIT: u32 = 26;
const MARK: u32 = 4096;
/// Requests of one stream.
const MOST: usize = 120;

/// FUSE 7.36 with what Linux 6.1 offers, or anything.
fn init(numbers: &mut Numbers) -> Vec<u8> {
    let flags = if numbers.below(3) == 0 { numbers.next() as u32 } else { 0x73ff_fffb };
    let minor = if numbers.below(6) == 0 { numbers.below(64) as u32 } else { 36 };
    let words = [7, minor, 1 << 17, flags, numbers.next() as u32];
    let mut body: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    body.resize(64, 0);
    message(INIT, 1, 0, &body)
}

fn said(scene: &mut Scene, numbers: &mut Numbers) -> Vec<u8> {
    let mut all = if numbers.below(20) == 0 { Vec::new() } else { init(numbers) };
    for _ in 0..numbers.below(MOST) {
        let mut bytes = match numbers.below(60) {
            0 => init(numbers),
            1 => numbers.bytes(100),
            2..5 => message(MARK, numbers.next() % 3, 0, &[]),
            _ => loop {
                // Lengths that lie come one line below: most would end the stream at once.
                let (bytes, whole) = compose(scene, numbers);
                if whole.is_some() {
                    break bytes;
                }
            },
        };
        match numbers.below(40) {
            0 => bytes = numbers.mutate(&bytes),
            1..8 if bytes.len() > 16 => bytes[8..16].copy_from_slice(&7u64.to_ne_bytes()),
            _ => {}
        }
        all.extend(bytes);
    }
    all
}

/// Takes and answers as a worker does, to the end of the stream. What the guest then has.
fn serve(scene: &mut Scene, bytes: Vec<u8>, cuts: usize) -> Vec<u8> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let channel = Channel::new(File::from(OwnedFd::from(ours))).unwrap();
    let mut hears = theirs.try_clone().unwrap();
    let hearing = spawn(move || {
        let mut all = Vec::new();
        let _ = hears.read_to_end(&mut all);
        all
    });
    let saying = spawn(move || {
        let mut to = &theirs;
        let _ = bytes.chunks(cuts).try_for_each(|chunk| to.write_all(chunk));
        let _ = theirs.shutdown(Shutdown::Write);
    });
    let mut outbox = Outbox::new(&channel).unwrap();
    let mut request = vec![0; (1 << 20) + 4096];
    loop {
        let length = match channel.take(&mut request) {
            Ok(Some(length)) => length,
            Ok(None) => {
                let mut waiting = [PollFd::from_borrowed_fd(channel.as_fd(), PollFlags::IN)];
                poll(&mut waiting, None).unwrap();
                continue;
            }
            Err(error) => {
                let gone = error.raw_os_error() == Some(libc::ECONNABORTED);
                assert!(gone || error.kind() == ErrorKind::InvalidData, "{error}");
                break;
            }
        };
        serve::answer(&scene.server, &mut request[..length], &outbox, &mut scene.reply).unwrap();
        outbox.send(&mut request).unwrap();
    }
    drop(outbox);
    drop(channel);
    saying.join().unwrap();
    hearing.join().unwrap()
}

#[test]
fn fuzz_guest_stream() {
    let mut answers = 0;
    fuzz("guest-stream", |numbers| {
        let mut scene = Scene::new();
        for _ in 0..4 {
            let bytes = said(&mut scene, numbers);
            let heard = serve(&mut scene, bytes, 1 + numbers.below(5000));
            assert!(!heard.windows(SECRET.len()).any(|part| part == SECRET));
            let mut rest = &heard[..];
            while !rest.is_empty() {
                let length = u32::from_ne_bytes(rest[..4].try_into().unwrap()) as usize;
                assert!((16..=rest.len()).contains(&length), "an answer of {length} bytes");
                rest = &rest[length..];
                answers += 1;
            }
        }
        assert_eq!(scene.look(), scene.guarded, "what is hidden, protected or outside changed");
        assert!(scene.view.record.alive().is_ok(), "the journal died");
        scene.let_go();
        assert_eq!(scene.view.tree.lock().unwrap().all().len(), 2);
    });
    println!("{answers} answers");
    assert!(answers > 100, "it knocks, but nobody answers");
}
