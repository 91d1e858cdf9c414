//! Frames that the peer injects and what it reads back: Ethernet, ARP, IPv4, IPv6, TCP, ICMP errors.

use std::net::{IpAddr, Ipv4Addr};

pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;
const TCP: u8 = 6;
const ICMP: u8 = 1;
const ICMP6: u8 = 58;

/// A TCP segment without payload.
#[derive(Debug, Clone, Copy)]
pub struct Segment {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub source_port: u16,
    pub destination_port: u16,
    pub flags: u8,
    pub sequence: u32,
    pub acknowledged: u32,
    /// Own and echoed time stamp.
    pub stamps: (u32, u32),
}

/// What came back, as far as it answers a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Flags, sequence number, the server's time stamp.
    Tcp {
        flags: u8,
        sequence: u32,
        stamp: u32,
    },
    Icmp {
        kind: u8,
        code: u8,
    },
}

/// An answer and the probe's own port, by which it is found again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    Probe { port: u16, answer: Answer },
    Fence { id: Ipv4Addr },
}

/// As Linux makes them: maximum segment size, SACK, time stamps, window scale on a SYN; time stamps afterwards.
fn options(segment: &Segment) -> Vec<u8> {
    let mut bytes = if segment.flags & SYN != 0 { vec![2, 4, 0x05, 0xb4, 4, 2, 8, 10] } else { vec![1, 1, 8, 10] };
    bytes.extend(segment.stamps.0.to_be_bytes());
    bytes.extend(segment.stamps.1.to_be_bytes());
    if segment.flags & SYN != 0 {
        bytes.extend([1, 3, 3, 7]);
    }
    bytes
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// The internet checksum (RFC 1071).
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// An Ethernet frame with the segment.
pub fn frame(to: [u8; 6], from: [u8; 6], segment: &Segment) -> Vec<u8> {
    let options = options(segment);
    let length = 20 + options.len();
    let mut tcp = Vec::with_capacity(length);
    tcp.extend(segment.source_port.to_be_bytes());
    tcp.extend(segment.destination_port.to_be_bytes());
    tcp.extend(segment.sequence.to_be_bytes());
    tcp.extend(segment.acknowledged.to_be_bytes());
    tcp.extend([(length as u8 / 4) << 4, segment.flags]);
    tcp.extend(64240u16.to_be_bytes());
    tcp.extend([0; 4]);
    tcp.extend(&options);
    let (source, destination) = (octets(segment.source), octets(segment.destination));
    let sum = checksum(&[&source, &destination, &[0, TCP], &(length as u16).to_be_bytes(), &tcp]);
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());

    let mut bytes = Vec::with_capacity(54 + length);
    bytes.extend(to);
    bytes.extend(from);
    if segment.source.is_ipv4() {
        bytes.extend([0x08, 0x00]);
        let mut ip = vec![0x45, 0];
        ip.extend((20 + length as u16).to_be_bytes());
        ip.extend(segment.source_port.to_be_bytes()); // identification
        ip.extend([0x40, 0, 64, TCP, 0, 0]);
        ip.extend(&source);
        ip.extend(&destination);
        let sum = checksum(&[&ip]);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes.extend(ip);
    } else {
        bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        bytes.extend((length as u16).to_be_bytes());
        bytes.extend([TCP, 64]);
        bytes.extend(&source);
        bytes.extend(&destination);
    }
    bytes.extend(tcp);
    bytes
}

/// "Who has `target`? Tell `sender`."
pub fn arp_request(from: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut bytes = vec![0xff; 6];
    bytes.extend(from);
    bytes.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
    bytes.extend(from);
    bytes.extend(sender.octets());
    bytes.extend([0; 6]);
    bytes.extend(target.octets());
    bytes
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Reads a frame that came to `me`; `None`: it is no answer to anything sent.
pub fn read(me: [u8; 6], bytes: &[u8]) -> Option<Heard> {
    if bytes.get(..6)? != me {
        return None;
    }
    let body = bytes.get(14..)?;
    match be16(bytes, 12)? {
        0x0806 if be16(body, 6)? == 2 => Some(Heard::Fence { id: Ipv4Addr::from(be32(body, 24)?) }),
        0x0800 => {
            let header = usize::from(body.first()? & 15) * 4;
            let inner = body.get(header..)?;
            match *body.get(9)? {
                TCP => tcp(inner),
                ICMP if *inner.first()? == 3 => {
                    let quoted = inner.get(8..)?;
                    let port = be16(quoted, usize::from(quoted.first()? & 15) * 4)?;
                    Some(Heard::Probe { port, answer: Answer::Icmp { kind: inner[0], code: inner[1] } })
                }
                _ => None,
            }
        }
        0x86dd => {
            let inner = body.get(40..)?;
            match *body.get(6)? {
                TCP => tcp(inner),
                ICMP6 if *inner.first()? < 128 => {
                    let port = be16(inner, 48)?;
                    Some(Heard::Probe { port, answer: Answer::Icmp { kind: inner[0], code: inner[1] } })
                }
                _ => None,
            }
        }
        _ => None,
    }
}

fn tcp(inner: &[u8]) -> Option<Heard> {
    let flags = *inner.get(13)?;
    let answer = Answer::Tcp { flags, sequence: be32(inner, 4)?, stamp: stamp(inner).unwrap_or(0) };
    Some(Heard::Probe { port: be16(inner, 2)?, answer })
}

/// The sender's time stamp of a TCP header.
fn stamp(tcp: &[u8]) -> Option<u32> {
    let end = usize::from(tcp.get(12)? >> 4) * 4;
    let mut options = tcp.get(20..end)?;
    loop {
        match *options.first()? {
            0 => return None,
            1 => options = &options[1..],
            8 => return be32(options, 2),
            _ => options = options.get(usize::from(*options.get(1)?).max(2)..)?,
        }
    }
}
