//! One message with descriptors over an AF_UNIX SEQPACKET socket (SCM_RIGHTS).

use std::mem::zeroed;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::time::{Duration, Instant};

use libc::{c_int, c_uint, c_void};
use napi::bindgen_prelude::AsyncTask;
use napi::{Env, Result, Task};
use napi_derive::napi;

use crate::{errno, failed};

const MAX_FDS: usize = 16;
const MAX_DATA: usize = 64 * 1024;
const FD_BYTES: usize = MAX_FDS * size_of::<c_int>();

/// Control buffer with the alignment that `cmsghdr` wants.
#[repr(align(8))]
struct Control([u8; 128]);

const _: () = assert!(unsafe { libc::CMSG_SPACE(FD_BYTES as c_uint) } as usize <= 128);

#[napi(object)]
pub struct Received {
    pub data: String,
    pub fds: Vec<i32>,
}

pub struct ReceiveFds {
    /// A duplicate: the number may be closed and reused by JS while the thread pool waits.
    socket: OwnedFd,
    deadline: Instant,
}

#[napi]
impl Task for ReceiveFds {
    type Output = (String, Vec<OwnedFd>);
    type JsValue = Received;

    fn compute(&mut self) -> Result<Self::Output> {
        wait_readable(&self.socket, self.deadline)?;
        receive(&self.socket)
    }

    fn resolve(&mut self, _env: Env, (data, fds): Self::Output) -> Result<Received> {
        Ok(Received { data, fds: fds.into_iter().map(IntoRawFd::into_raw_fd).collect() })
    }
}

/// Waits on the thread pool for one message. Rejects at end of file or after `timeout_ms`.
#[napi(ts_return_type = "Promise<{ data: string; fds: number[] }>")]
pub fn receive_fds(socket: i32, timeout_ms: u32) -> Result<AsyncTask<ReceiveFds>> {
    // SAFETY: fcntl duplicates any descriptor number or fails with EBADF; the copy is ours alone.
    let copy = unsafe { libc::fcntl(socket, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(errno("receiveFds"));
    }
    let socket = unsafe { OwnedFd::from_raw_fd(copy) };
    let deadline = Instant::now() + Duration::from_millis(u64::from(timeout_ms));
    Ok(AsyncTask::new(ReceiveFds { socket, deadline }))
}

fn wait_readable(socket: &OwnedFd, deadline: Instant) -> Result<()> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).as_millis();
        let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd, and the count says one.
        match unsafe { libc::poll(&raw mut poll, 1, c_int::try_from(left).unwrap_or(c_int::MAX)) } {
            0 if Instant::now() >= deadline => return Err(failed("receiveFds", "timed out")),
            1.. => return Ok(()),
            0 => {}
            _ => match std::io::Error::last_os_error() {
                error if error.kind() == std::io::ErrorKind::Interrupted => {}
                error => return Err(failed("receiveFds", error)),
            },
        }
    }
}

fn receive(socket: &OwnedFd) -> Result<(String, Vec<OwnedFd>)> {
    let mut data = vec![0u8; MAX_DATA];
    let mut control = Control([0; 128]);
    let mut part = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
    // SAFETY: all-zero is a valid msghdr.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len();
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    // SAFETY: every pointer in `message` is to a live buffer of the length it states.
    let size = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let Ok(size) = usize::try_from(size) else {
        return Err(errno("receiveFds"));
    };
    let fds = take_fds(&message); // owned before any check, so that a refused message leaks none
    if message.msg_flags & (libc::MSG_CTRUNC | libc::MSG_TRUNC) != 0 {
        return Err(failed("receiveFds", "message too long"));
    }
    if size == 0 && fds.is_empty() {
        return Err(failed("receiveFds", "the other side closed"));
    }
    data.truncate(size);
    let data = String::from_utf8(data).map_err(|_| failed("receiveFds", "message is not UTF-8"))?;
    Ok((data, fds))
}

fn take_fds(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: recvmsg filled the control buffer; CMSG_* stay within msg_controllen, and the kernel gives whole ints
    // that are new descriptors of this process.
    unsafe {
        let mut head = libc::CMSG_FIRSTHDR(message);
        while !head.is_null() {
            if (*head).cmsg_level == libc::SOL_SOCKET && (*head).cmsg_type == libc::SCM_RIGHTS {
                let bytes = (*head).cmsg_len.saturating_sub(libc::CMSG_LEN(0) as usize);
                let first = libc::CMSG_DATA(head).cast::<c_int>();
                for i in 0..bytes / size_of::<c_int>() {
                    fds.push(OwnedFd::from_raw_fd(first.add(i).read_unaligned()));
                }
            }
            head = libc::CMSG_NXTHDR(message, head);
        }
    }
    fds
}

/// Sends one message with up to 16 descriptors; the caller keeps its own.
#[napi]
pub fn send_fds(socket: i32, data: String, fds: Vec<i32>) -> Result<()> {
    if fds.len() > MAX_FDS || data.len() > MAX_DATA || data.is_empty() {
        return Err(failed("sendFds", "want 1 to 65536 bytes and at most 16 fds"));
    }
    let mut control = Control([0; 128]);
    let mut part = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    // SAFETY: all-zero is a valid msghdr.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    if !fds.is_empty() {
        write_rights(&mut message, &mut control, &fds);
    }
    // SAFETY: sendmsg only reads; every pointer is to a live buffer of the length it states.
    match unsafe { libc::sendmsg(socket, &raw const message, libc::MSG_NOSIGNAL) } {
        0.. => Ok(()),
        _ => Err(errno("sendFds")),
    }
}

fn write_rights(message: &mut libc::msghdr, control: &mut Control, fds: &[i32]) {
    let bytes = size_of_val(fds);
    // SAFETY: the const assertion above says that MAX_FDS descriptors fit, and the caller checked the count.
    unsafe {
        message.msg_control = control.0.as_mut_ptr().cast::<c_void>();
        message.msg_controllen = libc::CMSG_SPACE(bytes as c_uint) as usize;
        let head = libc::CMSG_FIRSTHDR(message);
        (*head).cmsg_level = libc::SOL_SOCKET;
        (*head).cmsg_type = libc::SCM_RIGHTS;
        (*head).cmsg_len = libc::CMSG_LEN(bytes as c_uint) as usize;
        std::ptr::copy_nonoverlapping(fds.as_ptr().cast::<u8>(), libc::CMSG_DATA(head), bytes);
    }
}
