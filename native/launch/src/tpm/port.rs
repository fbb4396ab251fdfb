//! QEMU's end of the TPM: its `emulator` backend speaks the control protocol of `swtpm` (tpm_ioctl.h) on one socket and
//! hands over another for commands. Here the first is answered and the second carried, so that QEMU, and a guest that
//! has broken it, can give the TPM commands and nothing else: not switch it off, not set its state, not lend it
//! another locality.
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use crate::alarm::{Alarm, Bell};
use crate::failure::Failure;
use crate::sys;
use crate::tpm::wire::{Tpm, read_message};

const GET_CAPABILITY: u32 = 1;
const INIT: u32 = 2;
const SHUTDOWN: u32 = 3;
const GET_ESTABLISHED: u32 = 4;
const SET_LOCALITY: u32 = 5;
const CANCEL: u32 = 9;
const RESET_ESTABLISHED: u32 = 11;
const GET_STATE: u32 = 12;
const STOP: u32 = 14;
const SET_DATA_SOCKET: u32 = 16;
const SET_BUFFER_SIZE: u32 = 17;

/// Init, shutdown, established, locality, cancel, reset, get and set state, stop, data socket, buffer size.
const CAPABILITIES: u64 = 0b11_0111_1010_1111;
const BUFFER: u32 = 4096;
const OK: u32 = 0;
/// `TPM_FAIL`.
const REFUSED: u32 = 9;

/// Serves QEMU until it ends. What it says that is no request ends the session.
pub fn serve(control: OwnedFd, tpm: Arc<Tpm>, bell: Bell) {
    std::thread::spawn(move || {
        if let Err(error) = answer(UnixStream::from(control), &tpm, &bell) {
            bell.ring(Alarm::Failed(Failure::new("the machine's TPM", error)));
        }
    });
}

fn answer(control: UnixStream, tpm: &Arc<Tpm>, bell: &Bell) -> io::Result<()> {
    let mut socket = &control;
    let mut given = false;
    loop {
        // QEMU writes each request at once and waits for its answer.
        let message = match sys::receive(control.as_fd()) {
            Ok(message) if message.bytes.is_empty() => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            message => message?,
        };
        let [code, value] = [0, 4].map(|at| number(&message.bytes, at));
        let code = code.ok_or_else(|| io::Error::other("QEMU sent half a request"))?;
        if code == SET_DATA_SOCKET {
            // QEMU gives one. Each has a thread here, which one that was taken over would have without end.
            if std::mem::replace(&mut given, true) {
                return Err(io::Error::other("QEMU gives a second socket"));
            }
            let data = message.fds.into_iter().next();
            carry(data.ok_or_else(|| io::Error::other("QEMU sent no socket"))?, tpm.clone(), bell.clone());
        }
        let reply = reply(code, value).ok_or_else(|| io::Error::other(format!("QEMU asks {code:#x}")))?;
        match socket.write_all(&reply) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            written => written?,
        }
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The TPM was powered on before QEMU was, and stays on until the session ends.
fn reply(code: u32, value: Option<u32>) -> Option<Vec<u8>> {
    let numbers = |numbers: &[u32]| numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
    Some(match code {
        GET_CAPABILITY => CAPABILITIES.to_be_bytes().to_vec(),
        INIT | SHUTDOWN | CANCEL | RESET_ESTABLISHED | STOP | SET_DATA_SOCKET => numbers(&[OK]),
        GET_ESTABLISHED => numbers(&[OK, 0]),
        // Locality 0 is the operating system's. The others could reset registers that a quote does not name.
        SET_LOCALITY => numbers(&[if value.is_some_and(|value| value >> 24 == 0) { OK } else { REFUSED }]),
        SET_BUFFER_SIZE => numbers(&[OK, BUFFER, BUFFER, BUFFER]),
        // A snapshot of a machine holds nothing of its TPM: each session has one of its own.
        GET_STATE => numbers(&[OK, 0, 0, 0]),
        _ => return None,
    })
}

/// Carries the guest's commands to the TPM and the answers back.
fn carry(data: OwnedFd, tpm: Arc<Tpm>, bell: Bell) {
    std::thread::spawn(move || {
        let mut data = UnixStream::from(data);
        while let Ok(Some(command)) = read_message(&mut data) {
            match tpm.exchange(&command) {
                Ok(response) if data.write_all(&response).is_err() => return,
                Ok(_) => {}
                Err(error) => return bell.ring(Alarm::Failed(Failure::new("the machine's TPM", error))),
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsRawFd;

    use super::*;
    use crate::alarm;

    #[test]
    fn qemu_can_give_commands_and_nothing_else() {
        assert_eq!(reply(GET_CAPABILITY, None).unwrap(), CAPABILITIES.to_be_bytes());
        // A reset and a stop are told to be done: the TPM was on before, and stays on.
        for code in [INIT, STOP, SHUTDOWN, RESET_ESTABLISHED] {
            assert_eq!(reply(code, Some(0)).unwrap(), [0; 4]);
        }
        assert_eq!(reply(SET_LOCALITY, Some(0)).unwrap(), [0; 4]);
        for locality in 1..=4u32 {
            assert_eq!(reply(SET_LOCALITY, Some(locality << 24)).unwrap(), REFUSED.to_be_bytes());
        }
        assert_eq!(reply(GET_STATE, Some(0)).unwrap(), [0; 16]);
        // Hash start, data and end, store, set state, configuration, information, lock.
        for code in [0, 6, 7, 8, 10, 13, 15, 18, 19, u32::MAX] {
            assert!(reply(code, Some(0)).is_none(), "{code}");
        }
    }
    #[test]
    fn one_socket_for_commands_and_no_second() {
        let pair = || UnixStream::pair().unwrap();
        let ((mut qemu, control), (tpm, _theirs), (data, _carried)) = (pair(), pair(), pair());
        let tpm = Arc::new(Tpm::new(tpm).unwrap());
        let (bell, _alarms) = alarm::alarms().unwrap();
        let port = std::thread::spawn(move || answer(control, &tpm, &bell));
        let give = || sys::send_with_fds(&qemu, &SET_DATA_SOCKET.to_be_bytes(), &[data.as_raw_fd()]).unwrap();
        give();
        let mut answered = [1; 4];
        (&qemu).read_exact(&mut answered).unwrap();
        assert_eq!(answered, [0; 4]);
        give();
        let ended = port.join().unwrap().unwrap_err();
        assert_eq!(ended.to_string(), "QEMU gives a second socket");
        assert_eq!(qemu.read(&mut answered).unwrap(), 0);
    }
}
