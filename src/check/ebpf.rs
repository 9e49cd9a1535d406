//! `enforcer = "ebpf"`, `[ebpf]`

use super::Checks;
use crate::config::schema::NftablesMode;

/// As `enforcer` names it.
const NAME: &str = "ebpf";

impl Checks<'_, '_> {
    pub(super) fn ebpf(&mut self) {
        let cgroup = &self.config.ebpf.cgroup;
        if !cgroup.is_absolute() {
            self.error("ebpf.cgroup", format!("{} is no absolute path", cgroup.display()));
        }
        if self.config.enforcer != NAME {
            return;
        }
        if matches!(self.config.nftables.mode, NftablesMode::Gateway | NftablesMode::Both)
            && self.sound(&["enforcer", "nftables.mode"])
        {
            self.error_with(
                "nftables.mode",
                "\"ebpf\" sees what the processes of this host begin, and no packet that is forwarded",
                "set nftables.mode to \"local\", or enforcer to \"nftables\"",
            );
        }
        let nftables = &self.config.nftables;
        for (key, used) in
            [("nftables.redirect_dns", nftables.redirect_dns), ("nftables.bridges", !nftables.bridges.is_empty())]
        {
            if used {
                self.error(key, "only with enforcer = \"nftables\"");
            }
        }
    }
}
