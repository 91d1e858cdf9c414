//! The instructions of nf_tables as the kernel gives them out over netlink (include/uapi/linux/netfilter/nf_tables.h), after
//! their attributes were decoded, and the sets that they look things up in.

use super::model::Target;
use std::sync::Arc;

/// A 4-byte slot of the 64-byte register file, 0 to 15. `NFT_REG_1` (16 bytes) is slots 0 to 3, `NFT_REG32_00` is slot 0.
pub type Slot = u8;

/// Where a payload load counts from (`enum nft_payload_bases`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    Link,
    Network,
    Transport,
    /// Behind the transport header, tunnel headers and what else: nothing of it is known for a SYN.
    Inner,
}

/// `enum nft_cmp_ops`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// `enum nft_bitwise_ops`; operands are as long as the value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bitwise {
    /// `(value & mask) ^ xor`
    MaskXor {
        mask: Box<[u8]>,
        xor: Box<[u8]>,
    },
    /// By bits; the value is a row of 32-bit words in the machine's byte order, the first one the highest.
    ShiftLeft(u32),
    ShiftRight(u32),
    /// With a second register (kernel 6.13 and later).
    And(Slot),
    Or(Slot),
    Xor(Slot),
}

/// Bits of `fib` flags (`enum nft_fib_flags`).
pub mod fib {
    pub const SADDR: u32 = 1;
    pub const DADDR: u32 = 2;
    pub const MARK: u32 = 4;
    pub const IIF: u32 = 8;
    pub const OIF: u32 = 16;
    pub const PRESENT: u32 = 32;
}

/// `enum nft_fib_result`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FibResult {
    OutIndex,
    OutName,
    AddressType,
}

/// One instruction. `len` is in bytes, as the kernel has it; constants are bytes in memory order.
#[derive(Debug, Clone)]
pub enum Native {
    Immediate {
        to: Slot,
        data: Box<[u8]>,
    },
    Payload {
        base: Base,
        offset: u32,
        len: u8,
        to: Slot,
    },
    /// `NFT_META_*` number
    Meta {
        key: u32,
        to: Slot,
    },
    MetaSet {
        key: u32,
        from: Slot,
    },
    /// `NFT_CT_*` number; direction 0 original, 1 reply
    Ct {
        key: u32,
        direction: Option<u8>,
        to: Slot,
    },
    CtSet {
        key: u32,
        from: Slot,
    },
    Compare {
        from: Slot,
        op: Compare,
        data: Box<[u8]>,
    },
    Range {
        from: Slot,
        not: bool,
        low: Box<[u8]>,
        high: Box<[u8]>,
    },
    Bitwise {
        from: Slot,
        to: Slot,
        len: u8,
        op: Bitwise,
    },
    /// Host to network order or back (the same thing): every `size` bytes are reversed on a little-endian machine.
    ByteOrder {
        from: Slot,
        to: Slot,
        len: u8,
        size: u8,
    },
    /// Without `to` and without verdicts in the set: is it (not) in the set.
    Lookup {
        set: Arc<Set>,
        from: Slot,
        to: Option<Slot>,
        not: bool,
    },
    Fib {
        result: FibResult,
        flags: u32,
        to: Slot,
    },
    /// A TCP option (`kind`), or its presence.
    TcpOption {
        kind: u8,
        offset: u32,
        len: u8,
        present: bool,
        to: Slot,
    },
    /// An IPv6 extension header: a SYN has none. With `present`, 0 or 1 is loaded.
    Ipv6Extension {
        present: bool,
        len: u8,
        to: Slot,
    },
    /// Loads something that no ruleset holds (numgen, jhash, socket, osf, rt, time, …); says what.
    LoadUnknown {
        what: String,
        len: u8,
        to: Slot,
    },
    /// Goes on or ends the rule, which rests on state that the ruleset does not hold (limit, quota, connlimit, …); says on what.
    Perhaps {
        what: String,
    },
    /// `add @set`, `update @set`, `delete @set`: packets change the set. With `inner` the element's own limit may end the rule.
    SetUpdate {
        set: Arc<Set>,
        /// `delete`: goes on always.
        delete: bool,
        /// `NFT_DYNSET_F_INV`: goes on only if the element could not be added.
        not: bool,
        inner: Vec<Native>,
    },
    /// Counts the packet (the rule's counter is [`super::model::Rule::packets`]).
    Counter,
    Notrack,
    /// NAT with addresses and ports from registers (`nat`, `redir`, `masq`); `None`: not given.
    Nat {
        kind: super::model::Nat,
        v6: bool,
        address: Option<(Slot, Slot)>,
        port: Option<(Slot, Slot)>,
    },
    /// What the packet goes through without consequences for it: log, dup, payload writes that no later test sees, …
    Nothing,
    Go(Target),
}

/// A set or map of nf_tables (named or anonymous). Fill `index` with its default.
#[derive(Debug, Clone, Default)]
pub struct Set {
    pub name: String,
    /// Bytes.
    pub key_len: usize,
    /// Field lengths of a concatenation in bytes, each padded to 4 in the key; empty: one field.
    pub fields: Vec<u8>,
    /// Elements are ranges: `NFT_SET_INTERVAL`.
    pub interval: bool,
    /// Most elements that it may hold (`NFTA_SET_DESC_SIZE`); `None`: as many as come.
    pub size: Option<u32>,
    /// As the kernel lists them.
    pub elements: Vec<Element>,
    /// Why its content cannot be taken as it stands.
    pub doubt: Option<String>,
    /// Built when it is first looked something up in.
    pub index: super::lookup::Index,
}

#[derive(Debug, Clone, Default)]
pub struct Element {
    /// Empty for the catch-all element.
    pub key: Box<[u8]>,
    /// End of a range, included (concatenations with intervals).
    pub key_end: Option<Box<[u8]>>,
    /// `NFT_SET_ELEM_INTERVAL_END`: the first key behind a range.
    pub interval_end: bool,
    pub catch_all: bool,
    pub data: Option<Data>,
    /// Instructions that run when it is hit (limit, counter, …).
    pub inner: Vec<Native>,
}

/// What a map gives.
#[derive(Debug, Clone)]
pub enum Data {
    Value(Box<[u8]>),
    Verdict(Target),
    /// A named counter, limit, quota, … (`objref`).
    Object(String),
}
