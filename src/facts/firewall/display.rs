//! Rules in their own tool's words: the text of `nft -a list ruleset` and `iptables-nft-save`, by handle and by position.
