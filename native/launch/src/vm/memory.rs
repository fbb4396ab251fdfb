//! The guest's memory of a snapshot: a memory file of each session's own, filled while QEMU starts. As pages in QEMU's
//! stream it would be read one after the other, and those of zeros looked at, too, before the machine goes on.
//!
//! In the snapshot's file it stands behind QEMU's stream: the runs of pages that are not zero, their table, and a
//! footer, all numbers u64le.
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::thread::JoinHandle;

use crate::failure::{Context, Failure, Result};
use crate::sys;

const PAGE: usize = 4096;
/// A machine's memory is a multiple of it.
const BLOCK: usize = 1 << 20;
/// What is filled at once: it stays in the processor's cache.
const CHUNK: usize = 256 << 10;
/// Bytes of a run in the table, and of the footer.
const ENTRY: usize = 24;
const MAGIC: u64 = u64::from_le_bytes(*b"AMBITMEM");
const WHAT: &str = "reading the snapshot's memory";

/// A machine's memory, for QEMU to map. What is filled before its cell has it counts for the launcher's control group,
/// not for the cell's.
pub fn empty(size: u64) -> Result<OwnedFd> {
    let what = "making the machine's memory";
    let memory = sys::memfd(c"ambit-machine", b"").context(what)?;
    let file = File::from(memory);
    file.set_len(size).context(what)?;
    Ok(file.into())
}

/// Pages of the guest's memory that stand one after the other, there and in the file.
#[derive(Debug, PartialEq, Clone, Copy)]
struct Run {
    at: u64,
    length: u64,
    place: u64,
}

/// Writes the memory behind what QEMU wrote. The machine stands still.
pub fn save(memory: &OwnedFd, file: &mut File) -> io::Result<()> {
    let memory = File::from(memory.try_clone()?);
    let mut place = file.metadata()?.len().next_multiple_of(PAGE as u64);
    file.set_len(place)?;
    file.seek(SeekFrom::End(0))?;
    let (mut runs, mut block) = (Vec::<Run>::new(), vec![0; BLOCK]);
    for start in (0..memory.metadata()?.len()).step_by(BLOCK) {
        memory.read_exact_at(&mut block, start)?;
        for (index, page) in
            block.chunks(PAGE).enumerate().filter(|(_, page)| page.iter().any(|byte| *byte != 0))
        {
            let at = start + (index * PAGE) as u64;
            match runs.last_mut() {
                Some(run) if run.at + run.length == at => run.length += PAGE as u64,
                _ => runs.push(Run { at, length: PAGE as u64, place }),
            }
            file.write_all(page)?;
            place += PAGE as u64;
        }
    }
    let numbers = runs.iter().flat_map(|run| [run.at, run.length, run.place]);
    let footer = [place, runs.len() as u64, MAGIC];
    let table: Vec<u8> = numbers.chain(footer).flat_map(u64::to_le_bytes).collect();
    file.write_all(&table)
}

/// Memory that is being filled.
pub struct Filling(JoinHandle<io::Result<()>>);

impl Filling {
    pub fn begin(file: File, memory: &OwnedFd, size: u64) -> Result<Self> {
        let memory = memory.try_clone().context(WHAT)?;
        Ok(Self(std::thread::spawn(move || fill(&file, &memory, size))))
    }

    pub fn finish(self) -> Result<()> {
        self.0.join().map_err(|_| Failure::new(WHAT, "it broke off"))?.context(WHAT)
    }
}

/// Written as a file's pages, which then need not be cleared first; and not by way of a mapping of the snapshot, which
/// would end the launcher if somebody cut it meanwhile.
fn fill(file: &File, memory: &OwnedFd, size: u64) -> io::Result<()> {
    let memory = File::from(memory.try_clone()?);
    let mut chunk = vec![0; CHUNK];
    for run in table(file, size)? {
        for done in (0..run.length).step_by(CHUNK) {
            let part = &mut chunk[..CHUNK.min((run.length - done) as usize)];
            file.read_exact_at(part, run.place + done)?;
            memory.write_all_at(part, run.at + done)?;
        }
    }
    Ok(())
}

fn table(file: &File, size: u64) -> io::Result<Vec<Run>> {
    let wrong = || io::Error::other("it is of another form");
    let end = file.metadata()?.len();
    let start = end.checked_sub(ENTRY as u64).ok_or_else(wrong)?;
    let [place, count, magic] = numbers(file, start, 1)?[..] else { return Err(wrong()) };
    let most = size / PAGE as u64;
    if magic != MAGIC || count > most || place.checked_add(count * ENTRY as u64) != Some(start) {
        return Err(wrong());
    }
    let runs: Vec<Run> = numbers(file, place, count as usize)?
        .as_chunks::<3>()
        .0
        .iter()
        .map(|&[at, length, place]| Run { at, length, place })
        .collect();
    let fits = |run: &Run| {
        run.at.is_multiple_of(PAGE as u64)
            && run.length.is_multiple_of(PAGE as u64)
            && run.at.checked_add(run.length).is_some_and(|end| end <= size)
            && run.place.checked_add(run.length).is_some_and(|end| end <= place)
    };
    let ascend = |runs: &[Run]| runs.windows(2).all(|pair| pair[0].at + pair[0].length <= pair[1].at);
    if runs.iter().all(fits) && ascend(&runs) { Ok(runs) } else { Err(wrong()) }
}

/// `count` entries of three numbers.
fn numbers(file: &File, place: u64, count: usize) -> io::Result<Vec<u64>> {
    let mut bytes = vec![0; count * ENTRY];
    file.read_exact_at(&mut bytes, place)?;
    Ok(bytes.as_chunks::<8>().0.iter().map(|number| u64::from_le_bytes(*number)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 8 << 20;

    fn file(content: &[u8]) -> File {
        File::from(sys::memfd(c"ambit-test", content).unwrap())
    }

    #[test]
    fn what_is_saved_is_what_comes_back() {
        let (from, to) = (empty(SIZE).unwrap(), empty(SIZE).unwrap());
        let pages = File::from(from.try_clone().unwrap());
        for at in [0, 4096, 3 << 20, SIZE - 4096] {
            pages.write_all_at(&[7; 4096], at).unwrap();
        }
        let mut saved = file(b"QEMU's stream");
        save(&from, &mut saved).unwrap();
        assert!(saved.metadata().unwrap().len() < 8 * 4096);
        Filling::begin(saved, &to, SIZE).unwrap().finish().unwrap();
        let read = |memory: &OwnedFd| {
            let mut all = vec![0; SIZE as usize];
            File::from(memory.try_clone().unwrap()).read_exact_at(&mut all, 0).unwrap();
            all
        };
        assert!(read(&from) == read(&to));
    }

    #[test]
    fn a_table_that_reaches_beyond_the_memory_is_refused() {
        let entry = |numbers: [u64; 3]| numbers.map(u64::to_le_bytes).concat();
        let of = |run: [u64; 3], footer: [u64; 3]| {
            table(&file(&[vec![7; PAGE], entry(run), entry(footer)].concat()), SIZE)
        };
        assert_eq!(of([0, 4096, 0], [4096, 1, MAGIC]).unwrap().len(), 1);
        for (run, footer) in [
            ([0, 4096, 0], [4096, 1, 0]),
            ([0, 4096, 0], [4096, 2, MAGIC]),
            ([0, 4096, 0], [u64::MAX, 1, MAGIC]),
            ([0, 4096, 0], [4096, u64::MAX, MAGIC]),
            ([SIZE, 4096, 0], [4096, 1, MAGIC]),
            ([u64::MAX - 4095, 4096, 0], [4096, 1, MAGIC]),
            ([1, 4096, 0], [4096, 1, MAGIC]),
            ([0, 4096, 4096], [4096, 1, MAGIC]),
            ([0, 4096, u64::MAX - 4095], [4096, 1, MAGIC]),
        ] {
            assert!(of(run, footer).is_err(), "{run:?} {footer:?}");
        }
        assert!(table(&file(b"short"), SIZE).is_err());
    }
}
