//! What the host says on `ambit.control`. The guest trusts the host; unknown fields are refused all the same, so that
//! a host never believes in something that this guest does not know.
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use ambit_launch::spec::{Ids, Limits, Mount};
use serde::{Deserialize, Serialize};

pub const VERSION: u32 = 1;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    pub v: u32,
    #[allow(dead_code, reason = "part of the contract; facts carry no session id of their own")]
    pub session: String,
    pub hostname: String,
    pub inside: Ids,
    pub mounts: Vec<Mount>,
    pub argv: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub cwd: PathBuf,
    pub terminal: bool,
    /// Rows and columns.
    pub window: Option<[u16; 2]>,
    pub limits: Limits,
    /// 64 bytes from the host's random numbers, as hex.
    pub entropy: String,
    /// Milliseconds since 1970.
    pub time: u64,
    pub net: Option<Net>,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Net {
    pub address: Ipv4Addr,
    pub prefix: u8,
    pub gateway: Ipv4Addr,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
pub enum Order {
    /// Before `start`: a snapshot will be taken, of a machine with that network.
    Warm {
        net: Option<Net>,
    },
    Start {
        spec: Box<Start>,
    },
    Exec,
    Recorded {
        n: u64,
    },
    Signal {
        signal: i32,
    },
    Freeze,
    Thaw,
    /// The host's clock, after the machine stood still.
    Time {
        time: u64,
    },
    Resize {
        window: [u16; 2],
    },
}

/// What the process that becomes the cell is told, through an anonymous file.
#[derive(Debug, Serialize, Deserialize)]
pub struct Shape {
    pub hostname: String,
    pub uid: u32,
    pub gid: u32,
    pub mounts: Vec<Mount>,
    /// Bytes of /dev/shm.
    pub shared_memory: u64,
}
