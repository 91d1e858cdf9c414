//! Extensions of iptables inside nf_tables rules (`match` and `target` expressions of iptables-nft): binary structures of
//! include/uapi/linux/netfilter/xt_*.h, decoded to the same steps as iptables-save text is.

use super::model::{Step, Target, Test};

/// One extension as the kernel gives it out.
pub struct Extension<'a> {
    pub name: &'a str,
    pub revision: u32,
    pub info: &'a [u8],
    pub v6: bool,
}

/// What a match tests. Extensions not known here become undecided tests that name them.
pub fn matches(extension: &Extension, ip_set_names: &dyn Fn(u16) -> Option<String>) -> Vec<Step> {
    let _ = ip_set_names;
    vec![Step::Test(Test::Undecided(format!("the extension {}", extension.name)))]
}

/// What a target does; no step: nothing that a later test looks at.
pub fn target(extension: &Extension) -> Vec<Step> {
    vec![Step::Go(Target::Undecided(format!("the target {}", extension.name)))]
}
