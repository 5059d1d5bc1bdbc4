//! Inner addresses: which session carries a destination, what is ours, what may be asked for.

use crate::prefix::Prefix;
use std::collections::HashMap;
use std::net::IpAddr;

#[derive(Default)]
pub struct Routes {
    hosts: HashMap<IpAddr, u32>,
    /// Longest first.
    prefixes: Vec<(Prefix, u32)>,
    local: Vec<Prefix>,
    wanted: Vec<Prefix>,
}

impl Routes {
    /// The session towards `destination`.
    #[inline]
    #[must_use]
    pub fn session(&self, destination: IpAddr) -> Option<u32> {
        if let Some(sid) = self.hosts.get(&destination) {
            return Some(*sid);
        }
        self.prefixes
            .iter()
            .find(|(p, _)| p.contains(destination))
            .map(|(_, sid)| *sid)
    }

    #[inline]
    #[must_use]
    pub fn is_local(&self, address: IpAddr) -> bool {
        self.local.iter().any(|p| p.contains(address))
    }

    #[must_use]
    pub fn is_wanted(&self, address: IpAddr) -> bool {
        self.wanted.iter().any(|p| p.contains(address)) && !self.is_local(address)
    }

    pub fn set_local(&mut self, prefixes: Vec<Prefix>) {
        self.local = prefixes;
    }

    pub fn set_wanted(&mut self, prefixes: Vec<Prefix>) {
        self.wanted = prefixes;
    }

    /// Route `prefixes` to `sid`, and nothing else to it.
    pub fn assign(&mut self, sid: u32, prefixes: &[Prefix]) {
        self.forget(sid);
        for prefix in prefixes {
            match prefix.host() {
                Some(host) => {
                    self.hosts.insert(host, sid);
                }
                None => {
                    self.prefixes.retain(|(p, _)| p != prefix);
                    self.prefixes.push((*prefix, sid));
                }
            }
        }
        self.prefixes
            .sort_by_key(|(p, _)| std::cmp::Reverse(p.bits()));
    }

    pub fn forget(&mut self, sid: u32) {
        self.hosts.retain(|_, s| *s != sid);
        self.prefixes.retain(|(_, s)| *s != sid);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A host route beats a prefix, a longer prefix a shorter one, and a later owner takes over.
    #[test]
    fn the_longest_match_and_the_latest_owner_win() {
        let p = |s| Prefix::parse(s).unwrap();
        let ip = |s: &str| s.parse().unwrap();
        let mut routes = Routes::default();
        routes.assign(1, &[p("10.0.0.0/8"), p("10.1.2.3")]);
        routes.assign(2, &[p("10.1.0.0/16")]);
        assert_eq!(routes.session(ip("10.1.2.3")), Some(1));
        assert_eq!(routes.session(ip("10.1.9.9")), Some(2));
        assert_eq!(routes.session(ip("10.9.9.9")), Some(1));
        routes.assign(3, &[p("10.1.2.3")]);
        assert_eq!(routes.session(ip("10.1.2.3")), Some(3));
        routes.forget(2);
        assert_eq!(routes.session(ip("10.1.9.9")), Some(1));
        assert_eq!(routes.session(ip("192.0.2.1")), None);
    }
}
