//! A UDP port of the gateway that leads to us, asked for in the three protocols that gateways know.
//!
//! ```text
//! pcp    PCP (RFC 6887), else NAT-PMP (RFC 6886)   UDP port 5351 of the gateway     crab_nat
//! upnp   UPnP Internet Gateway Device              SSDP multicast, SOAP over HTTP   igd-next
//! ```
//! A mapping is renewed and removed by whoever holds it; dropping it leaves it to its lifetime.
//! Calls block: they belong into a worker thread.  A gateway is believed only about what it gives,
//! and what it says in words is the caller's to bound and to escape.

mod pcp;
mod upnp;

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// What to ask a gateway for.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    /// Our address on the gateway's link.
    pub client: IpAddr,
    /// Our UDP port; the same one is asked for outside.
    pub port: NonZeroU16,
    /// How long the mapping should hold; a gateway may give less.
    pub life_s: u32,
    /// How long all attempts together may take.
    pub timeout: Duration,
}

/// Why there is no mapping.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("no gateway answered ({0})")]
    Silent(String),
    #[error("the gateway refused: {0}")]
    Refused(String),
    #[error("the gateway could not be asked: {0}")]
    Io(String),
    #[error("the port mapping library failed")]
    Broken,
}

pub type Result<T> = std::result::Result<T, Error>;

/// The protocol in which a gateway gave a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Pcp,
    NatPmp,
    Upnp,
}

impl Protocol {
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Pcp => "PCP",
            Protocol::NatPmp => "NAT-PMP",
            Protocol::Upnp => "UPnP",
        }
    }
}

/// A port of the gateway that leads to us until it expires.
#[derive(Debug)]
pub struct Mapping {
    held: Held,
}

#[derive(Debug)]
enum Held {
    Pcp(pcp::Held),
    Upnp(Box<upnp::Held>),
}

impl Mapping {
    /// Ask `gateway` in PCP, and in NAT-PMP if it knows no PCP.
    pub fn by_pcp(gateway: IpAddr, wish: Wish) -> Result<Mapping> {
        contained(|| pcp::Held::open(gateway, wish).map(Held::Pcp)).map(|held| Mapping { held })
    }

    /// Look for a UPnP gateway on the client's link and ask it; `search` instead of the multicast
    /// group, in tests.
    pub fn by_upnp(wish: Wish, search: Option<SocketAddr>) -> Result<Mapping> {
        contained(|| upnp::Held::open(wish, search).map(|held| Held::Upnp(Box::new(held))))
            .map(|held| Mapping { held })
    }

    /// The address and port outside.
    pub fn external(&self) -> SocketAddr {
        match &self.held {
            Held::Pcp(held) => held.external(),
            Held::Upnp(held) => held.external(),
        }
    }

    /// Seconds that it holds from its opening or last renewal; 0: until it is removed.
    pub fn life_s(&self) -> u32 {
        match &self.held {
            Held::Pcp(held) => held.life_s(),
            Held::Upnp(held) => held.life_s(),
        }
    }

    pub fn protocol(&self) -> Protocol {
        match &self.held {
            Held::Pcp(held) => held.protocol(),
            Held::Upnp(_) => Protocol::Upnp,
        }
    }

    /// Ask for it again; the address and port outside may be others afterwards.
    pub fn renew(&mut self) -> Result<()> {
        let held = &mut self.held;
        contained(|| match held {
            Held::Pcp(held) => held.renew(),
            Held::Upnp(held) => held.renew(),
        })
    }

    /// Tell the gateway that it is not needed any more.
    pub fn remove(&mut self) -> Result<()> {
        let held = &mut self.held;
        contained(|| match held {
            Held::Pcp(held) => held.remove(),
            Held::Upnp(held) => held.remove(),
        })
    }
}

/// Run a library's code; a panic in it ends the call, not the program.
fn contained<T>(act: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(act)).unwrap_or(Err(Error::Broken))
}
