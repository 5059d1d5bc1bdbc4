//! A beacon on BitTorrent's Mainline DHT (BEP 5): under an infohash that only those can compute who
//! share a secret, a node announces its port and asks who else did.
//!
//! ```text
//! Beacon::open --bootstrap nodes--> peers(infohash)     who announced themselves there
//!                                   announce(infohash)  our address, as those nodes see it, and a port
//!                                   nodes()             whom to ask first the next time
//! ```
//! What comes back are addresses and nothing else: whoever answers there has yet to prove a key.
//! Calls block, at most until their deadline; nothing here is on the data path.

mod wait;

use std::net::{Ipv4Addr, SocketAddrV4, ToSocketAddrs};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use futures_lite::StreamExt;
use mainline::async_dht::AsyncDht;
use mainline::{DEFAULT_BOOTSTRAP_NODES, Dht, Id};

pub use mainline::Testnet;

use wait::Deadline;

pub const INFOHASH_BYTES: usize = 20;

/// So many nodes are worth remembering for the next start.
const NODES_MAX: usize = 64;

/// Why the beacon gave nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("no socket for the Mainline DHT: {0}")]
    Socket(#[from] std::io::Error),
    #[error("none of the Mainline DHT's first nodes has an address: {0}")]
    NoBootstrap(String),
    #[error("no node of the Mainline DHT answered within {0:?}")]
    Silent(Duration),
    #[error("the Mainline DHT took no announcement: {0}")]
    Refused(String),
    #[error("the thread of the Mainline DHT died")]
    Died,
}

pub type Result<T> = std::result::Result<T, Error>;

/// A client of the Mainline DHT; its thread and socket go when it is dropped.
#[derive(Debug)]
pub struct Beacon {
    dht: AsyncDht,
}

impl Beacon {
    /// Open a client that knows the given first nodes, or the well-known ones if there are none.
    ///
    /// Names among them are looked up here, which blocks.
    pub fn open(bootstrap: &[String], bind: Option<Ipv4Addr>) -> Result<Beacon> {
        let known: Vec<SocketAddrV4> = if bootstrap.is_empty() {
            resolve(DEFAULT_BOOTSTRAP_NODES.iter().copied())
        } else {
            resolve(bootstrap.iter().map(String::as_str))
        };
        if known.is_empty() {
            return Err(Error::NoBootstrap(bootstrap.join(", ")));
        }
        let mut builder = Dht::builder();
        builder.bootstrap(&known);
        if let Some(address) = bind {
            builder.bind_address(address);
        }
        // The crate expects its thread to have started; what it panics with must not cross over.
        let dht = catch_unwind(AssertUnwindSafe(|| builder.build())).map_err(|_| Error::Died)??;
        Ok(Beacon {
            dht: dht.as_async(),
        })
    }

    /// Who announced themselves under `infohash`: at most `most` addresses, each once.
    pub fn peers(
        &self,
        infohash: [u8; INFOHASH_BYTES],
        most: usize,
        timeout: Duration,
    ) -> Result<Vec<SocketAddrV4>> {
        let deadline = Deadline::after(timeout);
        contained(|| {
            let mut found = Vec::new();
            let mut answers = self.dht.get_peers(Id::from(infohash));
            while let Some(Some(batch)) = deadline.wait(answers.next()) {
                for peer in batch {
                    if found.len() < most && !found.contains(&peer) {
                        found.push(peer);
                    }
                }
                if found.len() >= most {
                    break;
                }
            }
            Ok(found)
        })
    }

    /// Announce that this host answers on `port`, to the nodes nearest to `infohash`.
    pub fn announce(
        &self,
        infohash: [u8; INFOHASH_BYTES],
        port: u16,
        timeout: Duration,
    ) -> Result<()> {
        let deadline = Deadline::after(timeout);
        contained(
            || match deadline.wait(self.dht.announce_peer(Id::from(infohash), Some(port))) {
                None => Err(Error::Silent(timeout)),
                Some(Err(error)) => Err(Error::Refused(error.to_string())),
                Some(Ok(_)) => Ok(()),
            },
        )
    }

    /// Nodes that are known by now, as `ADDRESS:PORT`, for the next `open`.
    pub fn nodes(&self, timeout: Duration) -> Result<Vec<String>> {
        let deadline = Deadline::after(timeout);
        contained(|| {
            let mut known = deadline
                .wait(self.dht.to_bootstrap())
                .ok_or(Error::Silent(timeout))?;
            known.truncate(NODES_MAX);
            Ok(known)
        })
    }
}

/// A Mainline DHT of `count` nodes on loopback, for tests.
pub fn testnet(count: usize) -> Result<Testnet> {
    contained(|| Ok(Testnet::builder(count).build()?))
}

/// The IPv4 addresses of those that have one; Mainline nodes of this crate speak IPv4 alone.
fn resolve<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<SocketAddrV4> {
    let mut found = Vec::new();
    for text in texts {
        for address in text.to_socket_addrs().into_iter().flatten() {
            if let std::net::SocketAddr::V4(address) = address {
                found.push(address);
            }
        }
    }
    found
}

/// Run what panics if the DHT's thread has died.
fn contained<T>(act: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(act)).unwrap_or(Err(Error::Died))
}
