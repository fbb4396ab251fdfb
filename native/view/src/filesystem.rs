//! The view as a fuse-backend-rs file system: the same for FUSE to sandboxes and virtio-fs to microVMs.
use std::ffi::CStr;
use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fuse_backend_rs::abi::fuse_abi::{CreateIn, FsOptions, OpenOptions, SetattrValid, stat64, statvfs64};
use fuse_backend_rs::api::filesystem::{
    Context, DirEntry, Entry, FileSystem, GetxattrReply, ListxattrReply, ZeroCopyReader, ZeroCopyWriter,
};
use rustix::fs::{self, FallocateFlags, SeekFrom};

use crate::content::changes;
use crate::handle::FileHandle;
use crate::record::admit_end;
use crate::sys::{errno, lent};
use crate::tree::TOP;
use crate::view::View;

/// A file opened to be read has nothing to say when it is closed, nor has one whose intent is durable; bit 5 of `fuse_open_out.open_flags`, which the
/// library does not name.
const NOFLUSH: u32 = 1 << 5;

fn open_options(bits: u32) -> OpenOptions {
    // SAFETY: the type is its bits; the library passes them on as they are.
    #[allow(unsafe_code)]
    unsafe {
        OpenOptions::from_bits_unchecked(bits)
    }
}

/// The answer to a call with room for `size` bytes; one with no room asks how many there are.
fn sized<R>(bytes: Vec<u8>, size: u32, count: fn(u32) -> R, whole: fn(Vec<u8>) -> R) -> io::Result<R> {
    match size as usize {
        0 => Ok(count(bytes.len() as u32)),
        room if room < bytes.len() => Err(errno(libc::ERANGE)),
        _ => Ok(whole(bytes)),
    }
}

impl View {
    /// Room for `bytes` more in the file, or the refusal.
    fn claim(&self, file: &FileHandle, bytes: u64) -> io::Result<()> {
        let id = file.counted.lock().unwrap().ok_or_else(|| errno(libc::EBADF))?;
        let Err(over) = self.quota.write(id, bytes) else { return Ok(()) };
        let spot = self.spot(file.node)?;
        self.within_quota(spot.root, &spot.path, Err(over))
    }
}

impl FileSystem for View {
    type Inode = u64;
    type Handle = u64;

    fn init(&self, capable: FsOptions) -> io::Result<FsOptions> {
        // No WRITEBACK_CACHE: with it the kernel's idea of size and mtime wins over the host's, whose own changes
        // would be lost from sight. HANDLE_KILLPRIV_V2 spares a getxattr round trip on every write.
        let wanted = FsOptions::ASYNC_READ
            | FsOptions::ATOMIC_O_TRUNC
            | FsOptions::BIG_WRITES
            | FsOptions::AUTO_INVAL_DATA
            | FsOptions::DO_READDIRPLUS
            | FsOptions::READDIRPLUS_AUTO
            | FsOptions::PARALLEL_DIROPS
            | FsOptions::ZERO_MESSAGE_OPENDIR
            | FsOptions::HANDLE_KILLPRIV_V2
            | FsOptions::CACHE_SYMLINKS
            | FsOptions::ASYNC_DIO
            | FsOptions::MAX_PAGES;
        self.opens_dirs.store(!capable.contains(FsOptions::ZERO_MESSAGE_OPENDIR), Ordering::Relaxed);
        Ok(capable & wanted)
    }

    fn lookup(&self, _: &Context, parent: u64, name: &CStr) -> io::Result<Entry> {
        self.look_up(parent, name.to_bytes())
    }

    fn forget(&self, _: &Context, inode: u64, count: u64) {
        self.forget_node(inode, count);
    }

    fn getattr(&self, _: &Context, inode: u64, handle: Option<u64>) -> io::Result<(stat64, Duration)> {
        self.attributes_of(inode, handle)
    }

    fn setattr(
        &self,
        _: &Context,
        inode: u64,
        attr: stat64,
        handle: Option<u64>,
        valid: SetattrValid,
    ) -> io::Result<(stat64, Duration)> {
        self.crew.held_up(|| self.change_attributes(inode, &attr, handle, valid))
    }

    fn readlink(&self, _: &Context, inode: u64) -> io::Result<Vec<u8>> {
        self.read_link(inode)
    }

    fn symlink(&self, _: &Context, target: &CStr, parent: u64, name: &CStr) -> io::Result<Entry> {
        self.make_link(target.to_bytes(), parent, name.to_bytes())
    }

    fn mknod(&self, _: &Context, parent: u64, name: &CStr, mode: u32, _: u32, _: u32) -> io::Result<Entry> {
        self.make_node(parent, name.to_bytes(), mode)
    }

    fn mkdir(&self, _: &Context, parent: u64, name: &CStr, mode: u32, _: u32) -> io::Result<Entry> {
        self.make_dir(parent, name.to_bytes(), mode)
    }

    fn unlink(&self, _: &Context, parent: u64, name: &CStr) -> io::Result<()> {
        self.remove_file(parent, name.to_bytes())
    }

    fn rmdir(&self, _: &Context, parent: u64, name: &CStr) -> io::Result<()> {
        self.crew.held_up(|| self.remove_dir(parent, name.to_bytes()))
    }

    fn rename(
        &self,
        _: &Context,
        old: u64,
        name: &CStr,
        new: u64,
        new_name: &CStr,
        flags: u32,
    ) -> io::Result<()> {
        self.crew.held_up(|| self.rename_name(old, name.to_bytes(), new, new_name.to_bytes(), flags))
    }

    fn link(&self, _: &Context, inode: u64, parent: u64, name: &CStr) -> io::Result<Entry> {
        self.crew.held_up(|| self.hard_link(inode, parent, name.to_bytes()))
    }

    fn open(
        &self,
        _: &Context,
        inode: u64,
        flags: u32,
        _: u32,
    ) -> io::Result<(Option<u64>, OpenOptions, Option<u32>)> {
        let (handle, unchanged) = self.open_file(inode, flags)?;
        let kept = if unchanged { OpenOptions::KEEP_CACHE } else { OpenOptions::empty() };
        let silent = if changes(flags) { 0 } else { NOFLUSH };
        Ok((Some(handle), open_options(kept.bits() | silent), None))
    }

    fn create(
        &self,
        _: &Context,
        parent: u64,
        name: &CStr,
        args: CreateIn,
    ) -> io::Result<(Entry, Option<u64>, OpenOptions, Option<u32>)> {
        let made = self.create_file(parent, name.to_bytes(), args.mode, args.flags)?;
        let direct = if made.direct { OpenOptions::DIRECT_IO } else { OpenOptions::empty() };
        let silent = if made.intended { NOFLUSH } else { 0 };
        Ok((made.entry, Some(made.handle), open_options(direct.bits() | silent), None))
    }

    fn read(
        &self,
        _: &Context,
        inode: u64,
        handle: u64,
        w: &mut dyn ZeroCopyWriter,
        size: u32,
        offset: u64,
        _: Option<u64>,
        _: u32,
    ) -> io::Result<usize> {
        self.with_file(inode, handle, |file| {
            file.may_read()?;
            self.record.stats.reads.fetch_add(1, Ordering::Relaxed);
            self.stale.reads(file.node, offset, u64::from(size));
            let host = file.file.read().unwrap().clone();
            w.write_from(&mut *lent(&host), size as usize, offset)
        })
    }

    fn write(
        &self,
        _: &Context,
        inode: u64,
        handle: u64,
        r: &mut dyn ZeroCopyReader,
        size: u32,
        offset: u64,
        _: Option<u64>,
        _: bool,
        _: u32,
        _: u32,
    ) -> io::Result<usize> {
        self.with_file(inode, handle, |file| {
            file.may_write()?;
            admit_end(offset, u64::from(size))?;
            self.claim(file, u64::from(size))?;
            self.record.stats.writes.fetch_add(1, Ordering::Relaxed);
            file.dirty.store(true, Ordering::Release);
            let host = file.file.read().unwrap().clone();
            let written = r.read_to(&mut *lent(&host), size as usize, offset);
            self.stale.written(file);
            written
        })
    }

    fn flush(&self, _: &Context, inode: u64, handle: u64, _: u64) -> io::Result<()> {
        self.with_file(inode, handle, |file| self.flush_file(file))
    }

    fn fsync(&self, _: &Context, inode: u64, datasync: bool, handle: u64) -> io::Result<()> {
        self.with_file(inode, handle, |file| {
            let host = file.file.read().unwrap().clone();
            self.crew.held_up(|| {
                // What the agent makes durable is on record first.
                self.record.sync()?;
                if datasync { host.sync_data() } else { host.sync_all() }
            })
        })
    }

    fn fallocate(
        &self,
        _: &Context,
        inode: u64,
        handle: u64,
        mode: u32,
        offset: u64,
        length: u64,
    ) -> io::Result<()> {
        let flags = FallocateFlags::from_bits_retain(mode);
        let allowed = FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE;
        if !allowed.contains(flags) {
            return Err(errno(libc::EOPNOTSUPP));
        }
        self.with_file(inode, handle, |file| {
            file.may_write()?;
            admit_end(offset, length)?;
            if !flags.contains(FallocateFlags::PUNCH_HOLE) {
                self.claim(file, length)?;
            }
            file.dirty.store(true, Ordering::Release);
            let host = file.file.read().unwrap().clone();
            Ok(self.crew.held_up(|| fs::fallocate(&*host, flags, offset, length))?)
        })
    }

    fn release(
        &self,
        _: &Context,
        inode: u64,
        _: u32,
        handle: u64,
        _: bool,
        _: bool,
        _: Option<u64>,
    ) -> io::Result<()> {
        self.release_file(inode, handle)
    }

    fn statfs(&self, _: &Context, inode: u64) -> io::Result<statvfs64> {
        let index = if inode == TOP { 0 } else { self.spot(inode)?.root };
        let root = self.roots.get(index).ok_or_else(|| errno(libc::ENOSYS))?;
        let found = fs::fstatvfs(&root.fd)?;
        let mut reply: statvfs64 = FileSystem::statfs(&Plain, &Context::new(), inode)?;
        reply.f_bsize = found.f_bsize;
        reply.f_frsize = found.f_frsize;
        reply.f_blocks = found.f_blocks;
        reply.f_bfree = found.f_bfree;
        reply.f_bavail = found.f_bavail;
        reply.f_files = found.f_files;
        reply.f_ffree = found.f_ffree;
        reply.f_favail = found.f_favail;
        reply.f_namemax = 255;
        Ok(reply)
    }

    fn setxattr(&self, _: &Context, inode: u64, name: &CStr, value: &[u8], flags: u32) -> io::Result<()> {
        self.change_xattr(inode, name.to_bytes(), Some(value), flags)
    }

    fn getxattr(&self, _: &Context, inode: u64, name: &CStr, size: u32) -> io::Result<GetxattrReply> {
        sized(self.get_xattr(inode, name.to_bytes())?, size, GetxattrReply::Count, GetxattrReply::Value)
    }

    fn listxattr(&self, _: &Context, inode: u64, size: u32) -> io::Result<ListxattrReply> {
        sized(self.list_xattr(inode)?, size, ListxattrReply::Count, ListxattrReply::Names)
    }

    fn removexattr(&self, _: &Context, inode: u64, name: &CStr) -> io::Result<()> {
        self.change_xattr(inode, name.to_bytes(), None, 0)
    }

    /// ENOSYS: the kernel opens directories itself from then on and keeps their listings until their time changes, the
    /// agent changes them, or the host does (`watch`). Linux before 5.1 asks each time.
    fn opendir(&self, _: &Context, _: u64, _: u32) -> io::Result<(Option<u64>, OpenOptions)> {
        match self.opens_dirs.load(Ordering::Relaxed) {
            true => Ok((None, OpenOptions::CACHE_DIR | OpenOptions::KEEP_CACHE)),
            false => Err(errno(libc::ENOSYS)),
        }
    }

    fn readdir(
        &self,
        _: &Context,
        inode: u64,
        _: u64,
        _: u32,
        offset: u64,
        add_entry: &mut dyn FnMut(DirEntry) -> io::Result<usize>,
    ) -> io::Result<()> {
        self.send_names(inode, offset, add_entry)
    }

    fn readdirplus(
        &self,
        _: &Context,
        inode: u64,
        _: u64,
        _: u32,
        offset: u64,
        add_entry: &mut dyn FnMut(DirEntry, Entry) -> io::Result<usize>,
    ) -> io::Result<()> {
        self.send_entries(inode, offset, add_entry)
    }

    fn fsyncdir(&self, _: &Context, inode: u64, _: bool, _: u64) -> io::Result<()> {
        self.crew.held_up(|| self.sync_dir(inode))
    }

    fn releasedir(&self, _: &Context, _: u64, _: u32, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn lseek(&self, _: &Context, inode: u64, handle: u64, offset: u64, whence: u32) -> io::Result<u64> {
        let from = match whence as i32 {
            libc::SEEK_DATA => SeekFrom::Data(offset),
            libc::SEEK_HOLE => SeekFrom::Hole(offset),
            _ => return Err(errno(libc::EINVAL)),
        };
        self.with_file(inode, handle, |file| Ok(fs::seek(&**file.file.read().unwrap(), from)?))
    }
}

/// Gives the library's empty replies to fill in.
struct Plain;
impl FileSystem for Plain {
    type Inode = u64;
    type Handle = u64;
}
