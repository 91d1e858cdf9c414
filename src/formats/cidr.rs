//! Networks in CIDR notation (RFC 4632, RFC 4291).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address with the length of its network prefix; host bits may be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cidr {
    pub address: IpAddr,
    pub prefix: u8,
}

impl Cidr {
    /// Reads `10.0.0.0/24`, `10.0.0.7`, `fd77::/64`; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = match text.split_once('/') {
            Some((a, p)) => (a.parse().ok()?, p.parse().ok()?),
            None => {
                let address: IpAddr = text.parse().ok()?;
                (address, width(address))
            }
        };
        (prefix <= width(address)).then_some(Cidr { address, prefix })
    }

    /// Whether the address is in the network; an IPv4 address is never in an IPv6 network.
    pub fn contains(&self, address: IpAddr) -> bool {
        width(address) == width(self.address) && mask(bits(address), self) == mask(bits(self.address), self)
    }

    /// The first address of the network that a host can have: the address itself for a single address.
    pub fn first_host(&self) -> IpAddr {
        let network = mask(bits(self.address), self);
        let host_bits = width(self.address) - self.prefix;
        from_bits(if host_bits < 2 { network } else { network + 1 }, self.address)
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", from_bits(mask(bits(self.address), self), self.address), self.prefix)
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    }
}

fn from_bits(bits: u128, like: IpAddr) -> IpAddr {
    match like {
        // The value of an IPv4 address never exceeds 32 bits.
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from(bits as u32)),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(bits)),
    }
}

fn mask(value: u128, cidr: &Cidr) -> u128 {
    let host_bits = u32::from(width(cidr.address) - cidr.prefix);
    value.checked_shr(host_bits).unwrap_or(0).checked_shl(host_bits).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn membership_and_first_host() {
        let net = Cidr::parse("10.0.0.77/24").unwrap();
        assert_eq!(net.to_string(), "10.0.0.0/24");
        assert_eq!(net.first_host().to_string(), "10.0.0.1");
        assert!(net.contains("10.0.0.255".parse().unwrap()));
        assert!(!net.contains("10.0.1.0".parse().unwrap()));
        assert!(!net.contains("::1".parse().unwrap()));
        assert!(Cidr::parse("0.0.0.0/0").unwrap().contains("203.0.113.9".parse().unwrap()));
        assert_eq!(Cidr::parse("fd77::/64").unwrap().first_host().to_string(), "fd77::1");
        assert_eq!(Cidr::parse("10.0.0.7").unwrap().first_host().to_string(), "10.0.0.7");
    }

    #[test]
    fn what_is_no_network() {
        for text in ["", "10.0.0.0/33", "10.0.0/8", "fd77::/129", "any", "10.0.0.0/-1", "10.0.0.0/"] {
            assert_eq!(Cidr::parse(text), None, "{text}");
        }
    }
}
