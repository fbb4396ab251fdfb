//! `ambit.io`: the agent's standard streams as frames. Whoever does not read stops whoever writes; nothing piles up.
use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use ambit_launch::cell_end::Stdio;

const CHUNK: usize = 32 << 10;
const MOST: usize = 64 << 10;
const HEADER: usize = 5;
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;

/// Running streams; `output` ends by itself once everything inside is dead.
pub struct Streams {
    output: Vec<JoinHandle<()>>,
}

impl Streams {
    pub fn start(port: File, stdio: Stdio) -> io::Result<Self> {
        let out = Arc::new(Mutex::new(port.try_clone()?));
        let mut output = Vec::new();
        let mut pump = |stream: u8, from: File| {
            let out = out.clone();
            output.push(std::thread::spawn(move || drop(send(stream, from, &out))));
        };
        let input: File = match stdio {
            Stdio::Terminal(master) => {
                let input = master.try_clone()?;
                pump(STDOUT, master.into());
                input.into()
            }
            Stdio::Pipes { input, output, errors } => {
                pump(STDOUT, output.into());
                pump(STDERR, errors.into());
                input.into()
            }
        };
        std::thread::spawn(move || receive(port, input));
        Ok(Self { output })
    }

    /// Returns once all output and its end marks are with the host.
    pub fn drain(self) {
        self.output.into_iter().for_each(|thread| drop(thread.join()));
    }
}

/// Until end of file; EIO is a pty's.
fn send(stream: u8, mut from: File, out: &Mutex<File>) -> io::Result<()> {
    let mut frame = vec![0; HEADER + CHUNK];
    loop {
        let length = match from.read(&mut frame[HEADER..]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read.unwrap_or(0),
        };
        frame[0] = stream;
        frame[1..HEADER].copy_from_slice(&(length as u32).to_le_bytes());
        out.lock().unwrap().write_all(&frame[..HEADER + length])?;
        if length == 0 {
            return Ok(());
        }
    }
}

/// An agent that reads no more does not stop the host: the rest is dropped.
fn receive(mut port: File, input: File) -> io::Result<()> {
    let mut input = Some(input);
    let mut bytes = vec![0; MOST];
    loop {
        let mut header = [0; HEADER];
        port.read_exact(&mut header)?;
        let length = u32::from_le_bytes([header[1], header[2], header[3], header[4]]) as usize;
        if header[0] != STDIN || length > MOST {
            return Err(io::Error::other("not a frame"));
        }
        port.read_exact(&mut bytes[..length])?;
        if length == 0 || input.as_mut().is_some_and(|input| input.write_all(&bytes[..length]).is_err()) {
            input = None;
        }
    }
}
