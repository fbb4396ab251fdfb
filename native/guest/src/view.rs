//! The view's messages, carried between this kernel's FUSE device and the host, who answers them.
//!
//! Invalidations go through a thread of their own: one may wait for a page whose content is still in the stream
//! behind it.
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use ambit_launch::alarm::{Alarm, Bell};
use ambit_launch::failure::{Context, Failure, Result};
use ambit_launch::spec::Ids;
use ambit_launch::sys;

pub const PLACE: &str = "/view";
/// One message: 1 MiB of data and its header.
const MESSAGE: usize = (1 << 20) + 4096;
const REPLY_HEADER: usize = 16;
const REQUEST_HEADER: usize = 40;
/// The answer to a mark: no opcode of FUSE.
const MARK: u32 = 4096;

/// The place, of which a cell that was made before has what is mounted on it later.
pub fn prepare() -> Result<()> {
    let (what, place) = ("making the view's place", Path::new(PLACE));
    std::fs::create_dir_all(PLACE).context(what)?;
    sys::mount(Some(place), place, None, libc::MS_BIND, None).context(what)?;
    sys::mount(None, place, None, libc::MS_SHARED, None).context(what)
}

pub fn mount(port: File, inside: Ids, bell: &Bell) -> Result<()> {
    let what = "mounting the view";
    let device = File::options().read(true).write(true).open("/dev/fuse").context(what)?;
    let options = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions,allow_other",
        device.as_raw_fd(),
        inside.uid,
        inside.gid
    );
    let flags = libc::MS_NOSUID | libc::MS_NODEV;
    sys::mount(Some(Path::new("ambit")), Path::new(PLACE), Some("fuse"), flags, Some(&options))
        .context(what)?;
    let (device, out) = (Arc::new(device), Arc::new(Mutex::new(port.try_clone().context(what)?)));
    let (notices, waiting) = channel();
    let (asks, told) = ((device.clone(), out.clone()), device.clone());
    carry("asking", bell, move || ask(&asks.0, &asks.1));
    carry("hearing", bell, move || hear(port, &told, &notices));
    carry("forgetting", bell, move || forget(&waiting, &device, &out));
    Ok(())
}

/// A view without one of its parts must not go on.
fn carry(name: &'static str, bell: &Bell, part: impl FnOnce() -> io::Result<()> + Send + 'static) {
    let bell = bell.clone();
    std::thread::spawn(move || {
        let why = part().err().map_or_else(|| "it is gone".into(), |error| error.to_string());
        bell.ring(Alarm::Failed(Failure::new(&format!("the file view ({name})"), why)));
    });
}

fn ask(device: &File, out: &Mutex<File>) -> io::Result<()> {
    let mut message = vec![0; MESSAGE];
    loop {
        match (&mut &*device).read(&mut message) {
            Ok(length) => out.lock().unwrap().write_all(&message[..length])?,
            // The caller was interrupted before its request was taken.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn hear(mut port: File, device: &File, notices: &std::sync::mpsc::Sender<Vec<u8>>) -> io::Result<()> {
    let mut message = vec![0; MESSAGE];
    loop {
        port.read_exact(&mut message[..REPLY_HEADER])?;
        let length = word(&message, 0) as usize;
        if !(REPLY_HEADER..=MESSAGE).contains(&length) {
            return Err(io::Error::other("a length that no answer has"));
        }
        port.read_exact(&mut message[REPLY_HEADER..length])?;
        if message[8..16] == [0; 8] {
            notices.send(message[..length].to_vec()).map_err(io::Error::other)?;
        } else {
            hand_on(device, &message[..length])?;
        }
    }
}

fn forget(notices: &Receiver<Vec<u8>>, device: &File, out: &Mutex<File>) -> io::Result<()> {
    for notice in notices {
        if word(&notice, 4) != 0 {
            hand_on(device, &notice)?;
            continue;
        }
        let number = notice.get(REPLY_HEADER..REPLY_HEADER + 8).unwrap_or(&[0; 8]);
        let mut answer = [0; REQUEST_HEADER];
        answer[..4].copy_from_slice(&(REQUEST_HEADER as u32).to_ne_bytes());
        answer[4..8].copy_from_slice(&MARK.to_ne_bytes());
        answer[8..16].copy_from_slice(number);
        out.lock().unwrap().write_all(&answer)?;
    }
    Ok(())
}

/// ENOENT: nobody waits for it any more, or the kernel remembers nothing of it. EINVAL: it takes no such answer.
fn hand_on(device: &File, message: &[u8]) -> io::Result<()> {
    match (&mut &*device).write(message) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV)) => Err(error),
        _ => Ok(()),
    }
}

fn word(message: &[u8], at: usize) -> u32 {
    message.get(at..at + 4).map_or(0, |b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]))
}
