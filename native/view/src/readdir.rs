//! How a listing goes to the kernel: names alone, or each with its entry.
use std::io;

use fuse_backend_rs::api::filesystem::{DirEntry, Entry};
use rustix::fs::FileType;

use crate::listing::DirItem;
use crate::tree::TOP;
use crate::view::View;

/// `.` and `..`, then the items: position in the stream to what stands there.
fn at_offset(items: &[DirItem], offset: u64) -> Option<(&[u8], FileType, u64)> {
    match offset {
        0 => Some((b".", FileType::Directory, TOP)),
        1 => Some((b"..", FileType::Directory, TOP)),
        n => items.get(n as usize - 2).map(|item| (&item.name[..], item.kind, item.ino)),
    }
}

fn type_bits(kind: FileType) -> u32 {
    u32::from(match kind {
        FileType::RegularFile => libc::DT_REG,
        FileType::Directory => libc::DT_DIR,
        FileType::Symlink => libc::DT_LNK,
        FileType::Fifo => libc::DT_FIFO,
        FileType::Socket => libc::DT_SOCK,
        FileType::CharacterDevice => libc::DT_CHR,
        FileType::BlockDevice => libc::DT_BLK,
        _ => libc::DT_UNKNOWN,
    })
}

impl View {
    pub fn send_names(
        &self,
        inode: u64,
        offset: u64,
        add_entry: &mut dyn FnMut(DirEntry) -> io::Result<usize>,
    ) -> io::Result<()> {
        let (items, mut place) = self.items(inode, offset)?;
        while let Some((name, kind, ino)) = at_offset(&items, place.index) {
            let ino = if place.index < 2 { inode } else { ino };
            place = place.next();
            if add_entry(DirEntry { ino, offset: place.offset(), type_: type_bits(kind), name })? == 0 {
                break;
            }
        }
        Ok(())
    }

    pub fn send_entries(
        &self,
        inode: u64,
        offset: u64,
        add_entry: &mut dyn FnMut(DirEntry, Entry) -> io::Result<usize>,
    ) -> io::Result<()> {
        let parent = if inode == TOP { None } else { Some(self.spot(inode)?) };
        // Before the directory is read: a change after that makes an event.
        let lasts = parent.as_ref().map(|parent| self.names_last(inode, parent.lower.is_some()));
        let (items, mut place) = self.items(inode, offset)?;
        while let Some((name, kind, ino)) = at_offset(&items, place.index) {
            let named = place.index >= 2;
            place = place.next();
            let entry = match (&parent, lasts) {
                (Some(parent), Some(lasts)) if named => match self.find(parent, name) {
                    Ok(Some(found)) => self.entry(inode, name, &found, lasts)?,
                    // Gone since it was listed.
                    Ok(None) => continue,
                    // A directory that may be listed and not entered.
                    Err(error) if error.raw_os_error() == Some(libc::EACCES) => Entry::default(),
                    Err(error) => return Err(error),
                },
                _ => Entry::default(),
            };
            let ino = if entry.inode == 0 { ino.max(1) } else { entry.attr.st_ino };
            let (node, offset) = (entry.inode, place.offset());
            let added = add_entry(DirEntry { ino, offset, type_: type_bits(kind), name }, entry);
            if !matches!(added, Ok(size) if size > 0) {
                if node != 0 {
                    self.forget_node(node, 1);
                }
                added?;
                break;
            }
        }
        Ok(())
    }
}
