//! An epoll descriptor that Node's own loop watches: `turn` runs on the main thread whenever a socket is ready.

use std::ffi::{CStr, c_char};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::null_mut;

use libc::{c_int, c_void};
use napi::{Env, Result, Status, sys};

use crate::{errno, failed};

/// libuv's number of a poll handle (uv_handle_type), and its event "readable".
const UV_POLL: c_int = 8;
const UV_READABLE: c_int = 1;

type Handle = *mut c_void;
type OnPoll = extern "C" fn(Handle, c_int, c_int);
type OnClose = extern "C" fn(Handle);

/// The part of libuv that Node exports and napi does not declare. Looked up by name: without it there is no `Wire`.
struct Libuv {
    handle_size: unsafe extern "C" fn(c_int) -> usize,
    poll_init: unsafe extern "C" fn(*mut sys::uv_loop_s, Handle, c_int) -> c_int,
    poll_start: unsafe extern "C" fn(Handle, c_int, OnPoll) -> c_int,
    unref: unsafe extern "C" fn(Handle),
    close: unsafe extern "C" fn(Handle, OnClose),
}

fn symbol(name: &CStr) -> Result<*mut c_void> {
    // SAFETY: a NUL-terminated name, looked up in what is loaded.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr().cast::<c_char>()) };
    if found.is_null() {
        return Err(failed("Wire", format!("this Node does not export {}", name.to_string_lossy())));
    }
    Ok(found)
}

impl Libuv {
    fn find() -> Result<Self> {
        // SAFETY: libuv 1.x keeps these signatures (uv.h).
        unsafe {
            Ok(Self {
                handle_size: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(c_int) -> usize>(
                    symbol(c"uv_handle_size")?,
                ),
                poll_init: std::mem::transmute::<
                    *mut c_void,
                    unsafe extern "C" fn(*mut sys::uv_loop_s, Handle, c_int) -> c_int,
                >(symbol(c"uv_poll_init")?),
                poll_start: std::mem::transmute::<
                    *mut c_void,
                    unsafe extern "C" fn(Handle, c_int, OnPoll) -> c_int,
                >(symbol(c"uv_poll_start")?),
                unref: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(Handle)>(symbol(c"uv_unref")?),
                close: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(Handle, OnClose)>(symbol(
                    c"uv_close",
                )?),
            })
        }
    }
}

/// One socket that is ready, by the number it was added under.
pub struct Ready {
    pub id: u32,
    pub events: u32,
}

/// Sockets looked at in one turn; the others wait for the next.
const MOST_READY: usize = 64;

pub struct Epoll(OwnedFd);

impl Epoll {
    pub fn new() -> Result<Self> {
        // SAFETY: no memory is involved; the kernel makes a new descriptor.
        match unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) } {
            fd @ 0.. => Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) })),
            _ => Err(errno("epoll")),
        }
    }

    pub fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Watches `fd` for `events`; `None` forgets it.
    pub fn watch(&self, fd: RawFd, id: u32, before: Option<u32>, events: Option<u32>) {
        let op = match (before, events) {
            (None, None) => return,
            (None, Some(_)) => libc::EPOLL_CTL_ADD,
            (Some(_), Some(_)) => libc::EPOLL_CTL_MOD,
            (Some(_), None) => libc::EPOLL_CTL_DEL,
        };
        let mut event = libc::epoll_event { events: events.unwrap_or(0), u64: u64::from(id) };
        // SAFETY: one event, which the kernel reads.
        unsafe { libc::epoll_ctl(self.raw(), op, fd, &raw mut event) };
    }

    pub fn ready(&self) -> Vec<Ready> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; MOST_READY];
        // SAFETY: the kernel writes at most MOST_READY events.
        let count = unsafe { libc::epoll_wait(self.raw(), events.as_mut_ptr(), MOST_READY as c_int, 0) };
        events
            .iter()
            .take(usize::try_from(count).unwrap_or(0))
            .map(|event| Ready { id: event.u64 as u32, events: event.events })
            .collect()
    }
}

/// What runs when the watched descriptor is readable. Boxed twice, so that its address fits in a handle.
type Turn = Box<dyn FnMut()>;

/// Calls back on the main thread, inside a callback scope: promises and ticks run when it returns.
pub struct Watch {
    libuv: Libuv,
    handle: Handle,
    env: sys::napi_env,
    context: sys::napi_async_context,
}

/// What libuv's callback finds behind the handle's `data`.
struct Called {
    env: sys::napi_env,
    context: sys::napi_async_context,
    turn: Turn,
}

const fn checked(status: sys::napi_status) -> bool {
    status == sys::Status::napi_ok
}

impl Watch {
    /// Does not keep the process alive.
    pub fn start(env: &Env, fd: RawFd, turn: Turn) -> Result<Self> {
        let libuv = Libuv::find()?;
        let raw = env.raw();
        let mut uv = null_mut();
        let mut context = null_mut();
        // SAFETY: plain napi calls on the thread that owns `env`; each writes to a local.
        let ready = unsafe {
            let mut name = null_mut();
            checked(sys::napi_get_uv_event_loop(raw, &raw mut uv))
                && checked(sys::napi_create_string_utf8(raw, c"Wire".as_ptr(), 4, &raw mut name))
                && checked(sys::napi_async_init(raw, null_mut(), name, &raw mut context))
        };
        if !ready {
            return Err(napi::Error::new(Status::GenericFailure, "Wire: no event loop"));
        }
        // SAFETY: as large and as aligned as libuv says; the first word is the `data` of every handle.
        let handle = unsafe {
            let handle: Handle = libc::calloc(1, (libuv.handle_size)(UV_POLL));
            if handle.is_null() || (libuv.poll_init)(uv, handle, fd) != 0 {
                return Err(failed("Wire", "its descriptor cannot be watched"));
            }
            let called = Box::new(Called { env: raw, context, turn });
            handle.cast::<*mut Called>().write(Box::into_raw(called));
            (libuv.poll_start)(handle, UV_READABLE, on_poll);
            (libuv.unref)(handle);
            handle
        };
        Ok(Self { libuv, handle, env: raw, context })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // SAFETY: started by `start`, closed once; libuv calls back when nothing refers to the handle any more.
        unsafe {
            (self.libuv.close)(self.handle, on_close);
            sys::napi_async_destroy(self.env, self.context);
        }
    }
}

extern "C" fn on_close(handle: Handle) {
    // SAFETY: the handle and its data were made by `start` and are nobody's now.
    unsafe {
        drop(Box::from_raw(handle.cast::<*mut Called>().read()));
        libc::free(handle);
    }
}

extern "C" fn on_poll(handle: Handle, _status: c_int, _events: c_int) {
    // SAFETY: on the main thread, with a handle of ours that is not closed. `called` outlives the call: a close from
    // inside frees it in a later turn of the loop.
    unsafe {
        let called = &mut *handle.cast::<*mut Called>().read();
        let (env, context) = (called.env, called.context);
        let mut handles = null_mut();
        if !checked(sys::napi_open_handle_scope(env, &raw mut handles)) {
            return;
        }
        let mut resource = null_mut();
        let mut scope = null_mut();
        if checked(sys::napi_create_object(env, &raw mut resource))
            && checked(sys::napi_open_callback_scope(env, resource, context, &raw mut scope))
        {
            (called.turn)();
            sys::napi_close_callback_scope(env, scope);
        }
        sys::napi_close_handle_scope(env, handles);
    }
}
