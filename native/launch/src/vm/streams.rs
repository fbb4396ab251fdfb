//! `ambit.io`, the host's end: frames on one side, on the other the descriptors that the relay takes for an agent's.
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use crate::alarm::{Alarm, Bell};
use crate::cell_end::Stdio;
use crate::failure::Failure;
use crate::sys;

const CHUNK: usize = 32 << 10;
const MOST: usize = 64 << 10;
const HEADER: usize = 5;
const STDIN: u8 = 0;

/// Carries until either side ends; what is no frame rings. What comes back is for the relay.
pub fn carry(port: OwnedFd, terminal: bool, bell: Bell) -> io::Result<Stdio> {
    let port = UnixStream::from(port);
    let sending = port.try_clone()?;
    if terminal {
        let (relayed, ours) = UnixStream::pair()?;
        let keys = ours.try_clone()?;
        std::thread::spawn(move || send(keys, sending));
        std::thread::spawn(move || {
            tell_of(receive(port, &mut [Some(&ours), None]), &bell);
            let _ = ours.shutdown(Shutdown::Write);
        });
        return Ok(Stdio::Terminal(relayed.into()));
    }
    let ((stdin, input), (output, stdout), (errors, stderr)) = (sys::pipe()?, sys::pipe()?, sys::pipe()?);
    std::thread::spawn(move || send(File::from(stdin), sending));
    std::thread::spawn(move || {
        let (stdout, stderr) = (File::from(stdout), File::from(stderr));
        tell_of(receive(port, &mut [Some(stdout), Some(stderr)]), &bell);
    });
    Ok(Stdio::Pipes { input, output, errors })
}

/// The end of the stream is QEMU's, of which others know more.
fn tell_of(received: io::Result<()>, bell: &Bell) {
    if let Err(error) = received
        && error.kind() == io::ErrorKind::InvalidData
    {
        bell.ring(Alarm::Failed(Failure::new("hearing the guest", error)));
    }
}

fn send(mut from: impl Read, mut port: UnixStream) -> io::Result<()> {
    let mut frame = vec![0; HEADER + CHUNK];
    loop {
        let length = match from.read(&mut frame[HEADER..]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read.unwrap_or(0),
        };
        frame[0] = STDIN;
        frame[1..HEADER].copy_from_slice(&(length as u32).to_le_bytes());
        port.write_all(&frame[..HEADER + length])?;
        if length == 0 {
            return Ok(());
        }
    }
}

/// Stream 1 goes to the first, 2 to the second. One whose reader is gone is dropped on, so that the other goes on.
pub fn receive<W: Write>(mut port: impl Read, out: &mut [Option<W>; 2]) -> io::Result<()> {
    let mut bytes = vec![0; MOST];
    while out.iter().any(Option::is_some) {
        let mut header = [0; HEADER];
        port.read_exact(&mut header)?;
        let length = u32::from_le_bytes([header[1], header[2], header[3], header[4]]) as usize;
        let place = usize::from(header[0]).checked_sub(1).and_then(|stream| out.get_mut(stream));
        let (Some(place), true) = (place, length <= MOST) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it sent what is no frame"));
        };
        port.read_exact(&mut bytes[..length])?;
        if length == 0 || place.as_mut().is_some_and(|to| to.write_all(&bytes[..length]).is_err()) {
            *place = None;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(stream: u8, bytes: &[u8]) -> Vec<u8> {
        [&[stream][..], &(bytes.len() as u32).to_le_bytes(), bytes].concat()
    }

    #[test]
    fn takes_frames_apart_and_refuses_what_is_none() {
        let said =
            [frame(1, b"out"), frame(2, b"err"), frame(1, b"more"), frame(1, b""), frame(2, b"")].concat();
        let (mut one, mut two) = (Vec::new(), Vec::new());
        receive(&said[..], &mut [Some(&mut one), Some(&mut two)]).unwrap();
        assert_eq!((&one[..], &two[..]), (&b"outmore"[..], &b"err"[..]));
        for wrong in [frame(0, b"x"), frame(3, b"x"), vec![1, 255, 255, 255, 255]] {
            assert!(receive(&wrong[..], &mut [Some(Vec::new()), None]).is_err());
        }
    }
}
