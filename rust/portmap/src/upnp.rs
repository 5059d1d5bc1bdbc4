//! UPnP's Internet Gateway Device, by igd-next.

use std::net::SocketAddr;
use std::time::Duration;

use igd_next::{
    AddAnyPortError, AddPortError, Gateway, PortMappingProtocol, RemovePortError, SearchError,
    SearchOptions, search_gateway,
};

use crate::{Error, Result, Wish};

/// What the gateway's own list shows to its owner.
const DESCRIPTION: &str = "VeilNet";
const UDP: PortMappingProtocol = PortMappingProtocol::UDP;

#[derive(Debug)]
pub struct Held {
    gateway: Gateway,
    inside: SocketAddr,
    external: SocketAddr,
    asked_s: u32,
    life_s: u32,
}

impl Held {
    pub fn open(wish: Wish, search: Option<SocketAddr>) -> Result<Held> {
        let mut options = SearchOptions::default();
        // The client's address chooses the link that the group is asked on.
        options.bind_addr = SocketAddr::new(wish.client, 0);
        options.timeout = Some(wish.timeout);
        options.single_search_timeout = Some(Duration::min(wish.timeout, Duration::from_secs(1)));
        if let Some(address) = search {
            options.broadcast_address = address;
        }
        let gateway = search_gateway(options).map_err(not_found)?;
        let inside = SocketAddr::new(wish.client, wish.port.get());
        let (port, life_s) = ask(&gateway, inside, inside.port(), wish.life_s)?;
        let ip = gateway
            .get_external_ip()
            .map_err(|error| Error::Refused(error.to_string()))?;
        Ok(Held {
            gateway,
            inside,
            external: SocketAddr::new(ip, port),
            asked_s: wish.life_s,
            life_s,
        })
    }

    pub fn external(&self) -> SocketAddr {
        self.external
    }

    pub fn life_s(&self) -> u32 {
        self.life_s
    }

    pub fn renew(&mut self) -> Result<()> {
        let (port, life_s) = ask(
            &self.gateway,
            self.inside,
            self.external.port(),
            self.asked_s,
        )?;
        let ip = self
            .gateway
            .get_external_ip()
            .map_err(|error| Error::Refused(error.to_string()))?;
        self.external = SocketAddr::new(ip, port);
        self.life_s = life_s;
        Ok(())
    }

    pub fn remove(&mut self) -> Result<()> {
        match self.gateway.remove_port(UDP, self.external.port()) {
            Ok(()) | Err(RemovePortError::NoSuchPortMapping) => Ok(()),
            Err(error) => Err(Error::Refused(error.to_string())),
        }
    }
}

/// Return the port outside, and how long it holds (0: for ever).
fn ask(gateway: &Gateway, inside: SocketAddr, port: u16, life_s: u32) -> Result<(u16, u32)> {
    match gateway.add_port(UDP, port, inside, life_s, DESCRIPTION) {
        Ok(()) => Ok((port, life_s)),
        Err(AddPortError::OnlyPermanentLeasesSupported) => gateway
            .add_port(UDP, port, inside, 0, DESCRIPTION)
            .map(|()| (port, 0))
            .map_err(|error| Error::Refused(error.to_string())),
        // Somebody else behind this gateway has the port.
        Err(AddPortError::PortInUse) => any(gateway, inside, life_s),
        Err(error) => Err(Error::Refused(error.to_string())),
    }
}

fn any(gateway: &Gateway, inside: SocketAddr, life_s: u32) -> Result<(u16, u32)> {
    match gateway.add_any_port(UDP, inside, life_s, DESCRIPTION) {
        Ok(port) => Ok((port, life_s)),
        Err(AddAnyPortError::OnlyPermanentLeasesSupported) => gateway
            .add_any_port(UDP, inside, 0, DESCRIPTION)
            .map(|port| (port, 0))
            .map_err(|error| Error::Refused(error.to_string())),
        Err(error) => Err(Error::Refused(error.to_string())),
    }
}

fn not_found(error: SearchError) -> Error {
    match error {
        SearchError::NoResponseWithinTimeout => Error::Silent("UPnP".into()),
        SearchError::IoError(source) => Error::Io(source.to_string()),
        other => Error::Refused(other.to_string()),
    }
}
