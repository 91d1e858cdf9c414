//! What starts at boot, from the links that enable units: nothing is spawned.

use crate::host::{Got, Host, optional, read_text};
use std::collections::BTreeSet;
use std::path::Path;

const DIRECTORY: &str = "/etc/systemd/system";
/// Where unit files stand, the ones that win first.
const FILES: [&str; 4] = [DIRECTORY, "/run/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];

/// Enabled units.
#[derive(Debug, Clone, Default)]
pub struct Units {
    enabled: BTreeSet<String>,
}

impl Units {
    /// Names in all `.wants` and `.requires` directories of the administrator's units, and aliases; masked ones are none.
    pub fn read(host: &dyn Host) -> Got<Units> {
        let mut enabled = BTreeSet::new();
        for name in optional(host.list(Path::new(DIRECTORY)))?.unwrap_or_default() {
            if name.ends_with(".wants") || name.ends_with(".requires") {
                let units = optional(host.list(&Path::new(DIRECTORY).join(&name)))?.unwrap_or_default();
                enabled.extend(units);
            }
        }
        let masked = |unit: &String| {
            let target = host.read_link(&Path::new(DIRECTORY).join(unit));
            target.is_ok_and(|t| t == Path::new("/dev/null"))
        };
        enabled.retain(|unit| !masked(unit));
        Ok(Units { enabled })
    }

    pub fn has(&self, unit: &str) -> bool {
        self.enabled.contains(unit)
    }

    pub fn iter(&self) -> impl Iterator<Item = &String> {
        self.enabled.iter()
    }
}

/// The text of a unit's main file.
pub fn file(host: &dyn Host, unit: &str) -> Option<(String, String)> {
    FILES.iter().find_map(|dir| {
        let path = format!("{dir}/{unit}");
        read_text(host, &path).ok().map(|text| (path, text))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::Fake;

    #[test]
    fn links_enable_and_a_mask_forbids() {
        let host = Fake::new()
            .file("/lib/systemd/system/ufw.service", "")
            .link("/etc/systemd/system/multi-user.target.wants/ufw.service", "/lib/systemd/system/ufw.service")
            .link("/etc/systemd/system/sysinit.target.wants/nftables.service", "/lib/systemd/system/nftables.service")
            .link("/etc/systemd/system/nftables.service", "/dev/null");
        let units = Units::read(&host).unwrap();
        assert!(units.has("ufw.service") && !units.has("nftables.service"));
        assert!(Units::read(&Fake::new()).unwrap().iter().next().is_none());
    }
}
