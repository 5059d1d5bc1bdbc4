//! PCP and NAT-PMP, by crab_nat.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crab_nat::{
    GatewayAddress, InternetProtocol, MappingFailure, PortMapping, PortMappingOptions,
    PortMappingType, TimeoutConfig, natpmp, pcp,
};

use crate::{Error, Protocol, Result, Wish};

const FIRST_WAIT: Duration = Duration::from_millis(250);
const RETRIES: usize = 2;
const TRIES: TimeoutConfig = TimeoutConfig {
    initial_timeout: FIRST_WAIT,
    max_retries: RETRIES,
    max_retry_timeout: None,
};

#[derive(Debug)]
pub struct Held {
    mapping: PortMapping,
    external_ip: IpAddr,
    timeout: Duration,
}

impl Held {
    pub fn open(gateway: IpAddr, wish: Wish) -> Result<Held> {
        let (mapping, external_ip) = run(wish.timeout, ask(gateway.into(), wish))?;
        Ok(Held {
            mapping,
            external_ip,
            timeout: wish.timeout,
        })
    }

    pub fn external(&self) -> SocketAddr {
        SocketAddr::new(self.external_ip, self.mapping.external_port().get())
    }

    pub fn life_s(&self) -> u32 {
        self.mapping.lifetime()
    }

    pub fn protocol(&self) -> Protocol {
        match self.mapping.mapping_type() {
            PortMappingType::NatPmp => Protocol::NatPmp,
            PortMappingType::Pcp { .. } => Protocol::Pcp,
        }
    }

    pub fn renew(&mut self) -> Result<()> {
        let mapping = &mut self.mapping;
        self.external_ip = run(self.timeout, async {
            mapping.renew().await.map_err(failure)?;
            external_ip(mapping).await
        })?;
        Ok(())
    }

    pub fn remove(&mut self) -> Result<()> {
        let mapping = self.mapping.clone();
        run(self.timeout, async {
            mapping
                .try_drop()
                .await
                .map_err(|(error, _)| failure(error))
        })
    }
}

async fn ask(gateway: GatewayAddress, wish: Wish) -> Result<(PortMapping, IpAddr)> {
    let options = PortMappingOptions {
        external_port: Some(wish.port),
        lifetime_seconds: Some(wish.life_s),
        timeout_config: Some(TRIES),
    };
    let request = pcp::BaseMapRequest::new(gateway, wish.client, InternetProtocol::Udp, wish.port);
    let mapping = match pcp::port_mapping(request, None, None, options).await {
        Ok(mapping) => mapping,
        // Old gateways answer PCP with their own version, or not at all.
        Err(pcp::Failure::UnsupportedVersion(_) | pcp::Failure::Timeout)
            if wish.client.is_ipv4() =>
        {
            natpmp::port_mapping(gateway, InternetProtocol::Udp, wish.port, options)
                .await
                .map_err(|error| failure(error.into()))?
        }
        Err(error) => return Err(failure(error.into())),
    };
    let external_ip = external_ip(&mapping).await?;
    Ok((mapping, external_ip))
}

async fn external_ip(mapping: &PortMapping) -> Result<IpAddr> {
    match mapping.mapping_type() {
        PortMappingType::Pcp { external_ip, .. } => Ok(match external_ip {
            IpAddr::V6(address) => address.to_canonical(),
            address => address,
        }),
        PortMappingType::NatPmp => natpmp::external_address(mapping.gateway(), Some(TRIES))
            .await
            .map(IpAddr::V4)
            .map_err(|error| failure(error.into())),
    }
}

/// Run to the end on this thread, within `timeout`.
fn run<T>(timeout: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(|error| Error::Io(error.to_string()))?;
    runtime.block_on(async {
        tokio::time::timeout(timeout, work)
            .await
            .unwrap_or_else(|_| Err(Error::Silent("PCP, NAT-PMP".into())))
    })
}

fn failure(error: MappingFailure) -> Error {
    match error {
        MappingFailure::Pcp(pcp::Failure::Timeout)
        | MappingFailure::NatPmp(natpmp::Failure::Timeout) => Error::Silent("PCP, NAT-PMP".into()),
        // A closed port: there is a gateway, and it speaks neither.
        MappingFailure::Pcp(pcp::Failure::Socket(source))
        | MappingFailure::NatPmp(natpmp::Failure::Socket(source)) => {
            if source.kind() == std::io::ErrorKind::ConnectionRefused {
                Error::Silent("PCP, NAT-PMP: the gateway has no such port".into())
            } else {
                Error::Io(source.to_string())
            }
        }
        other => Error::Refused(other.to_string()),
    }
}
