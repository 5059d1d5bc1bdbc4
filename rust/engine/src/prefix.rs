//! An inner address prefix.

use crate::error::{Error, Result};
use std::net::IpAddr;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    base: u128,
    mask: u128,
    v6: bool,
    bits: u8,
}

fn number(ip: IpAddr) -> (u128, bool) {
    match ip {
        IpAddr::V4(a) => (u128::from(u32::from(a)) << 96, false),
        IpAddr::V6(a) => (u128::from(a), true),
    }
}

impl Prefix {
    /// Parse `ADDRESS` or `ADDRESS/BITS`.
    pub fn parse(text: &str) -> Result<Prefix> {
        let bad = Error::Invalid("a prefix is ADDRESS or ADDRESS/BITS");
        let (address, bits) = match text.split_once('/') {
            Some((a, b)) => (a, Some(b)),
            None => (text, None),
        };
        let Ok(ip) = address.parse::<IpAddr>() else {
            return Err(bad);
        };
        let (base, v6) = number(ip);
        let width: u8 = if v6 { 128 } else { 32 };
        let bits = match bits.map(str::parse::<u8>) {
            None => width,
            Some(Ok(b)) if b <= width => b,
            Some(_) => return Err(bad),
        };
        let mask = if bits == 0 {
            0
        } else {
            u128::MAX << (128 - u32::from(bits))
        };
        Ok(Prefix {
            base: base & mask,
            mask,
            v6,
            bits,
        })
    }

    #[inline]
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        let (n, v6) = number(ip);
        v6 == self.v6 && n & self.mask == self.base
    }

    /// The one address of a host prefix.
    #[must_use]
    pub fn host(&self) -> Option<IpAddr> {
        match (self.v6, self.bits) {
            (false, 32) => Some(IpAddr::V4(((self.base >> 96) as u32).into())),
            (true, 128) => Some(IpAddr::V6(self.base.into())),
            _ => None,
        }
    }

    #[must_use]
    pub fn bits(&self) -> u8 {
        self.bits
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A prefix holds exactly the addresses of its own family that share its bits.
    #[test]
    fn contains_by_bits_and_family() {
        let p = Prefix::parse("100.64.16.0/20").unwrap();
        assert!(p.contains("100.64.31.255".parse().unwrap()));
        assert!(!p.contains("100.64.32.0".parse().unwrap()));
        assert!(!p.contains("::".parse().unwrap()));
        assert!(
            Prefix::parse("::/0")
                .unwrap()
                .contains("fd00::1".parse().unwrap())
        );
        assert!(
            !Prefix::parse("::/0")
                .unwrap()
                .contains("1.2.3.4".parse().unwrap())
        );
        assert_eq!(
            Prefix::parse("fd00::1").unwrap().host(),
            Some("fd00::1".parse().unwrap())
        );
        for bad in ["", "1.2.3.4/33", "fd00::/129", "x", "1.2.3.4/"] {
            assert!(Prefix::parse(bad).is_err(), "{bad}");
        }
    }
}
