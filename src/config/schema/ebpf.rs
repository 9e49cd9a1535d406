//! `[ebpf]`

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[ebpf]`: for `enforcer = "ebpf"`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Ebpf {
    /// The control group (version 2) whose processes are guarded, with all groups below: its directory.
    pub cgroup: PathBuf,
}

impl Default for Ebpf {
    fn default() -> Self {
        Self { cgroup: PathBuf::from("/sys/fs/cgroup") }
    }
}
