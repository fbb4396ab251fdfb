//! Driving rustls by hand: records in, records out, no socket.

use rustls::Error;
use rustls::unbuffered::{EncodeError, InsufficientSizeError};

/// The two kinds of connection have the same methods and no trait in common.
macro_rules! drive {
    ($tls:expr, $bytes:expr, $held:expr, $waiting:expr, $step:expr) => {{
        let mut failure = None;
        loop {
            // After a failure, too, of which only the alert is of interest: rustls knows by their place which of these
            // bytes it has looked at, and a buffer without them would end the process.
            let rest = $bytes.get_mut($step.used..).unwrap_or_default();
            let UnbufferedStatus { mut discard, state } = $tls.process_tls_records(rest);
            let mut last = false;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        match record {
                            Ok(record) => {
                                discard += record.discard;
                                $held.extend_from_slice(record.payload);
                            }
                            Err(error) => {
                                failure.get_or_insert(error);
                                break;
                            }
                        }
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    if let Err(error) = append($waiting, |room| data.encode(room)) {
                        failure.get_or_insert(error);
                        last = true;
                    }
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => $step.closed = true,
                Ok(ConnectionState::Closed) => {
                    $step.closed = true;
                    last = true;
                }
                Ok(ConnectionState::WriteTraffic(_)) => {
                    $step.established = failure.is_none();
                    last = true;
                }
                Ok(ConnectionState::BlockedHandshake) => last = true,
                Ok(_) => {
                    failure.get_or_insert(Error::General("no early data was offered".into()));
                    last = true;
                }
                Err(error) => {
                    // The alert that it queued comes with the next round; the error again with the one after.
                    last = failure.is_some();
                    failure.get_or_insert(error);
                }
            }
            $step.used += discard;
            if last {
                break;
            }
        }
        failure.map_or(Ok(()), Err)
    }};
}

/// Brings the connection to where it may write, and writes. None: it may not, or cannot.
macro_rules! seal {
    ($tls:expr, $partial:expr, $waiting:expr, |$writer:ident| $write:expr) => {{
        let mut result = None;
        for _ in 0..8 {
            let UnbufferedStatus { discard, state } = $tls.process_tls_records($partial);
            let ready = match state {
                Ok(ConnectionState::WriteTraffic(mut $writer)) => {
                    let written: Result<usize, EncryptError> = $write;
                    result = written.ok();
                    true
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    append($waiting, |room| data.encode(room)).is_err()
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    false
                }
                // Told when it was received.
                Ok(ConnectionState::PeerClosed) => false,
                _ => true,
            };
            $partial.drain(..discard.min($partial.len()));
            if ready {
                break;
            }
        }
        result
    }};
}

pub(super) use drive;
pub(super) use seal;

/// Appends what `encode` writes, whatever room it wants.
pub fn append(
    into: &mut Vec<u8>,
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<(), Error> {
    let start = into.len();
    let mut room = 4096;
    loop {
        into.resize(start + room, 0);
        match encode(into.get_mut(start..).unwrap_or_default()) {
            Ok(size) => {
                into.truncate(start + size);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size }))
                if required_size > room =>
            {
                room = required_size;
            }
            Err(error) => {
                into.truncate(start);
                return Err(Error::General(error.to_string()));
            }
        }
    }
}
