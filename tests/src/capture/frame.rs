//! As much of Ethernet, IP and TCP as tells a connection attempt.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const ETHERNET: usize = 14;
const TCP: u8 = 6;
const FRAGMENT: u8 = 44;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// The ends and flags of a TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// The flags octet (RFC 9293 §3.1); 0 when the header's fragment ends before it.
    pub flags: u8,
}

impl Segment {
    /// Reads an Ethernet frame; `None` when it holds no TCP header, or not its first eight bytes.
    pub fn of_ethernet(frame: &[u8]) -> Option<Self> {
        let packet = frame.get(ETHERNET..)?;
        match frame.get(12..ETHERNET)? {
            [0x08, 0x00] => Self::of_ipv4(packet),
            [0x86, 0xdd] => Self::of_ipv6(packet),
            _ => None,
        }
    }

    /// Whether it asks for a connection.
    pub fn opens(&self) -> bool {
        self.flags & (SYN | ACK) == SYN
    }

    /// Whether it agrees to a connection.
    pub fn accepts(&self) -> bool {
        self.flags & (SYN | ACK) == SYN | ACK
    }

    fn of_ipv4(packet: &[u8]) -> Option<Self> {
        let header = usize::from(packet.first()? & 0x0f) * 4;
        let fragment_offset = u16::from_be_bytes(bytes(packet, 6)?) & 0x1fff;
        if *packet.get(9)? != TCP || fragment_offset != 0 {
            return None;
        }
        let source = Ipv4Addr::from(bytes::<4>(packet, 12)?).into();
        let destination = Ipv4Addr::from(bytes::<4>(packet, 16)?).into();
        Self::of_tcp(source, destination, packet.get(header..)?)
    }

    fn of_ipv6(packet: &[u8]) -> Option<Self> {
        let source = Ipv6Addr::from(bytes::<16>(packet, 8)?).into();
        let destination = Ipv6Addr::from(bytes::<16>(packet, 24)?).into();
        let payload = packet.get(40..)?;
        match (*packet.get(6)?, payload) {
            (TCP, segment) => Self::of_tcp(source, destination, segment),
            (FRAGMENT, [TCP, _, high, low, _, _, _, _, segment @ ..])
                if u16::from_be_bytes([*high, *low]) >> 3 == 0 =>
            {
                Self::of_tcp(source, destination, segment)
            }
            _ => None,
        }
    }

    fn of_tcp(source: IpAddr, destination: IpAddr, segment: &[u8]) -> Option<Self> {
        let source_port = u16::from_be_bytes(bytes(segment, 0)?);
        let destination_port = u16::from_be_bytes(bytes(segment, 2)?);
        let flags = segment.get(13).copied().unwrap_or_default();
        Some(Self {
            source,
            destination,
            source_port,
            destination_port,
            flags,
        })
    }
}

fn bytes<const N: usize>(packet: &[u8], at: usize) -> Option<[u8; N]> {
    packet.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::Segment;

    fn frame(kind: [u8; 2], packet: &[u8]) -> Vec<u8> {
        [[0; 12].as_slice(), &kind, packet].concat()
    }

    #[test]
    fn an_ipv4_syn_is_told_from_its_answer() {
        let mut packet = [0_u8; 40];
        packet[0] = 0x45;
        packet[9] = 6;
        packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        packet[20..24].copy_from_slice(&[0x30, 0x39, 0x1f, 0x90]);
        packet[33] = 0x02;
        let syn = Segment::of_ethernet(&frame([8, 0], &packet)).unwrap();
        assert!(syn.opens());
        assert_eq!((syn.source_port, syn.destination_port), (12345, 8080));
        packet[33] = 0x12;
        assert!(!Segment::of_ethernet(&frame([8, 0], &packet)).unwrap().opens());
    }

    #[test]
    fn an_ipv6_syn_is_found_behind_a_fragment_header() {
        let mut packet = [0_u8; 68];
        packet[6] = 44;
        packet[40] = 6;
        packet[48..52].copy_from_slice(&[0, 1, 0, 2]);
        packet[61] = 0x02;
        let syn = Segment::of_ethernet(&frame([0x86, 0xdd], &packet)).unwrap();
        assert!(syn.opens());
        packet[43] = 0x08;
        assert_eq!(Segment::of_ethernet(&frame([0x86, 0xdd], &packet)), None);
    }

    #[test]
    fn short_and_other_frames_are_no_segments() {
        for length in 0..40 {
            assert_eq!(
                Segment::of_ethernet(&frame([8, 0], &vec![0x45; length])),
                None,
                "{length}"
            );
        }
        assert_eq!(Segment::of_ethernet(&frame([8, 6], &[0; 60])), None);
    }
}
