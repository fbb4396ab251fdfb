//! What `ambit-view` is told; twin of src/view/view-spec.ts.
use std::path::PathBuf;

use serde::Deserialize;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ViewSpec {
    pub version: u32,
    #[allow(dead_code, reason = "part of the contract; facts carry no session id of their own")]
    pub session: String,
    pub journal: PathBuf,
    pub owner: Owner,
    pub quota: QuotaSpec,
    pub roots: Vec<RootSpec>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Owner {
    pub host_uid: u32,
    pub host_gid: u32,
    pub uid: u32,
    pub gid: u32,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct QuotaSpec {
    pub bytes: u64,
    pub inodes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    Read,
    Write,
    Review,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RootSpec {
    pub index: u32,
    /// Place in the profile, as facts carry it; roots are sorted here, so it is not the index.
    pub rule: Option<String>,
    pub path: PathBuf,
    pub access: Access,
    pub label: String,
    pub hide: Vec<String>,
    pub protect: Vec<String>,
    pub review: Vec<String>,
    pub upper: Option<PathBuf>,
    pub nested: Vec<String>,
}

impl ViewSpec {
    /// Reads and checks the file; unknown fields and other versions are refused.
    pub fn read(path: &std::path::Path) -> Result<Self, String> {
        let text = std::fs::read(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
        Self::parse(&text)
    }

    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let spec: ViewSpec = serde_json::from_slice(text).map_err(|e| format!("bad view spec: {e}"))?;
        if spec.version != 1 {
            return Err(format!("view spec version {} is not 1", spec.version));
        }
        for (at, root) in spec.roots.iter().enumerate() {
            if root.index as usize != at {
                return Err(format!("root {at} has index {}", root.index));
            }
            if !root.path.is_absolute() {
                return Err(format!("root {at} is not absolute"));
            }
            let reviewed = root.access == Access::Review || !root.review.is_empty();
            if reviewed && root.access != Access::Read && root.upper.is_none() {
                return Err(format!("root {at} has files under review but no upper layer"));
            }
        }
        Ok(spec)
    }
}
