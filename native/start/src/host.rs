//! Finds the warm session host, if there is one that is our user's own.
use std::ffi::OsString;
use std::os::fd::AsRawFd;
use std::os::linux::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::client;
use crate::request::Request;
use crate::sys;

const SOCKET: &str = "session.sock";
/// A unix socket's address holds 107 bytes; longer paths go by way of the directory's descriptor.
const MOST_ADDRESS: usize = 107;

/// The exit status of a session that a warm host served; None when this start must be a cold one.
pub fn run(root: &Path, words: &[OsString]) -> Option<i32> {
    let request = Request::of(root, words)?;
    let host = connect(&request.run_dir()?)?;
    client::run(root, &request, host)
}

/// The directory is private to us, or whoever stands at the socket could be anybody (T-11).
fn connect(dir: &Path) -> Option<UnixStream> {
    let found = std::fs::symlink_metadata(dir).ok()?;
    let private = found.is_dir() && found.st_uid() == sys::uid() && found.st_mode() & 0o077 == 0;
    if !private {
        return None;
    }
    let path = dir.join(SOCKET);
    let host = if path.as_os_str().len() <= MOST_ADDRESS {
        sys::connect(&path).ok()?
    } else {
        let dir = std::fs::File::open(dir).ok()?;
        sys::connect(Path::new(&format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd()))).ok()?
    };
    (sys::peer_uid(&host).ok()? == sys::uid()).then_some(host)
}
