//! The underlay socket: batches of equal datagrams out (UDP_SEGMENT) and in (UDP_GRO).

use super::{check, check_len};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

const UDP_SEGMENT: libc::c_int = 103;
const UDP_GRO: libc::c_int = 104;
const BUFFER_BYTES: libc::c_int = 8 << 20;
/// Of a socket that a NAT is tried with, until a path settles on it.
const SMALL_BYTES: libc::c_int = 256 << 10;

/// One UDP socket, for both families where the host has IPv6.
pub struct Udp {
    fd: OwnedFd,
    v6: bool,
    pub gro: bool,
}

/// An address of this host; IPv4 is mapped.
pub type Local = Ipv6Addr;

/// Where to send, in the form the kernel takes, and from which address of this host.
#[derive(Clone, Copy)]
pub struct RawAddr {
    storage: libc::sockaddr_storage,
    len: libc::socklen_t,
    /// None: the kernel chooses by route. A peer behind a NAT hears only the address it called.
    pub local: Option<Local>,
    /// How many routers may pass it on (TTL, hop limit); None: as many as the host's default.
    pub hops: Option<u8>,
    /// Which of our sockets it leaves by (`Ports`), unless a carrier takes it.
    pub port: u16,
    pub carrier: Option<u32>,
    v4: bool,
}

impl RawAddr {
    /// Whether both leave in the same way, so that one call may send for both.
    #[inline]
    #[must_use]
    pub fn is_way_of(&self, other: &RawAddr) -> bool {
        self.local == other.local && self.hops == other.hops && self.port == other.port
    }

    /// The same destination, sent to from *local*.
    #[must_use]
    pub fn leaving(self, local: Option<Local>) -> RawAddr {
        RawAddr { local, ..self }
    }

    /// The same destination, sent to by another of our sockets.
    #[must_use]
    pub fn through(self, port: u16) -> RawAddr {
        RawAddr { port, ..self }
    }

    /// The same destination, or a router on the way to it.
    #[must_use]
    pub fn within(self, hops: Option<u8>) -> RawAddr {
        RawAddr { hops, ..self }
    }
}

/// What one receive call brought: `len` bytes in datagrams of `segment` bytes, the last shorter.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    pub len: usize,
    pub segment: usize,
    pub source: SocketAddr,
    /// The address of this host that was called.
    pub local: Option<Local>,
}

impl Udp {
    pub fn bind(port: u16, want_gro: bool) -> io::Result<Udp> {
        match Udp::open(true, port, want_gro, BUFFER_BYTES) {
            // EAFNOSUPPORT, or IPv6 disabled by sysctl (EADDRNOTAVAIL).
            Err(e)
                if matches!(
                    e.raw_os_error(),
                    Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
                ) =>
            {
                Udp::open(false, port, want_gro, BUFFER_BYTES)
            }
            other => other,
        }
    }

    /// One more socket, like this one but small, on a random port.
    pub fn further(&self) -> io::Result<Udp> {
        Udp::open(self.v6, 0, self.gro, SMALL_BYTES)
    }

    fn open(v6: bool, port: u16, want_gro: bool, buffer: libc::c_int) -> io::Result<Udp> {
        let family = if v6 { libc::AF_INET6 } else { libc::AF_INET };
        // SAFETY: a new descriptor that we own.
        let fd = unsafe {
            let kind = libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
            OwnedFd::from_raw_fd(check(libc::socket(family, kind, 0))?)
        };
        let mut udp = Udp { fd, v6, gro: false };
        if v6 {
            udp.set(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 0)?;
            let probe = libc::IPV6_PMTUDISC_PROBE;
            udp.set(libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, probe)?;
            udp.set(libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
        } else {
            udp.set(libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
        }
        // Never fragment: the path MTU is ours to find (RFC 8899). Applies to mapped IPv4 too.
        udp.set(
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_PROBE,
        )?;
        for (force, plain) in [
            (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF),
            (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF),
        ] {
            if udp.set(libc::SOL_SOCKET, force, buffer).is_err() {
                udp.set(libc::SOL_SOCKET, plain, buffer)?;
            }
        }
        let any: IpAddr = if v6 {
            Ipv6Addr::UNSPECIFIED.into()
        } else {
            Ipv4Addr::UNSPECIFIED.into()
        };
        let addr = udp.raw(SocketAddr::new(any, port));
        // SAFETY: a filled sockaddr with its length.
        check(unsafe { libc::bind(udp.fd(), (&raw const addr.storage).cast(), addr.len) })?;
        udp.gro = want_gro && udp.set(libc::SOL_UDP, UDP_GRO, 1).is_ok();
        Ok(udp)
    }

    fn set(&self, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
        super::set(self.fd(), level, name, value)
    }

    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    pub fn port(&self) -> io::Result<u16> {
        Ok(own_address(self.fd())?.port())
    }

    /// The kernel's form of `to`; IPv4 is mapped on a socket of both families.
    #[must_use]
    pub fn raw(&self, to: SocketAddr) -> RawAddr {
        // SAFETY: an all-zero storage is valid.
        let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        let len = match (to, self.v6) {
            (SocketAddr::V4(a), false) => {
                let raw = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: a.port().to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: u32::from_ne_bytes(a.ip().octets()),
                    },
                    sin_zero: [0; 8],
                };
                // SAFETY: sockaddr_storage holds any sockaddr.
                unsafe { (&raw mut storage).cast::<libc::sockaddr_in>().write(raw) };
                std::mem::size_of::<libc::sockaddr_in>()
            }
            (to, _) => {
                let (ip, scope) = match to {
                    SocketAddr::V4(a) => (a.ip().to_ipv6_mapped(), 0),
                    SocketAddr::V6(a) => (*a.ip(), a.scope_id()),
                };
                let raw = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: to.port().to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr {
                        s6_addr: ip.octets(),
                    },
                    sin6_scope_id: scope,
                };
                // SAFETY: as above.
                unsafe { (&raw mut storage).cast::<libc::sockaddr_in6>().write(raw) };
                std::mem::size_of::<libc::sockaddr_in6>()
            }
        };
        RawAddr {
            storage,
            len: len as libc::socklen_t,
            local: None,
            hops: None,
            port: 0,
            carrier: crate::carrier::number(to),
            v4: to.ip().to_canonical().is_ipv4(),
        }
    }

    /// The address of this host that the kernel leaves from towards `to` now; None: no way leads there.
    #[must_use]
    pub fn source(&self, to: &RawAddr) -> Option<Local> {
        let asked = self.beside().ok()?;
        // SAFETY: an address with its length.
        check(unsafe {
            let storage = (&raw const to.storage).cast();
            libc::connect(asked.as_raw_fd(), storage, to.len)
        })
        .ok()?;
        match own_address(asked.as_raw_fd()).ok()?.ip() {
            IpAddr::V4(ip) => Some(ip.to_ipv6_mapped()),
            IpAddr::V6(ip) => Some(ip),
        }
    }

    /// A socket of the same families that only asks the kernel.
    fn beside(&self) -> io::Result<OwnedFd> {
        let family = if self.v6 {
            libc::AF_INET6
        } else {
            libc::AF_INET
        };
        // SAFETY: a new descriptor that we own.
        let fd = unsafe {
            let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
            OwnedFd::from_raw_fd(check(libc::socket(family, kind, 0))?)
        };
        if self.v6 {
            super::set(fd.as_raw_fd(), libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 0)?;
        }
        Ok(fd)
    }

    /// Send `buf`, cut into datagrams of `segment` bytes if it is longer than that.
    #[inline]
    pub fn send(&self, to: &RawAddr, buf: &[u8], segment: usize) -> io::Result<()> {
        let mut iov = libc::iovec {
            iov_base: buf.as_ptr().cast_mut().cast(),
            iov_len: buf.len(),
        };
        let mut control = Control::default();
        // SAFETY: an all-zero msghdr is valid; everything it points to lives over the call.
        let sent = unsafe {
            let mut msg: libc::msghdr = std::mem::zeroed();
            msg.msg_name = (&raw const to.storage).cast_mut().cast();
            msg.msg_namelen = to.len;
            msg.msg_iov = &mut iov;
            msg.msg_iovlen = 1;
            msg.msg_control = control.0.as_mut_ptr().cast();
            msg.msg_controllen = std::mem::size_of_val(&control);
            let mut used = 0;
            let mut cmsg = libc::CMSG_FIRSTHDR(&msg);
            if buf.len() > segment && !cmsg.is_null() {
                (*cmsg).cmsg_level = libc::SOL_UDP;
                (*cmsg).cmsg_type = UDP_SEGMENT;
                (*cmsg).cmsg_len = libc::CMSG_LEN(2) as usize;
                libc::CMSG_DATA(cmsg)
                    .cast::<u16>()
                    .write_unaligned(segment as u16);
                used += libc::CMSG_SPACE(2) as usize;
                cmsg = libc::CMSG_NXTHDR(&msg, cmsg);
            }
            if let (Some(local), false) = (to.local, cmsg.is_null()) {
                used += self.put_local(cmsg, local);
                cmsg = libc::CMSG_NXTHDR(&msg, cmsg);
            }
            if let (Some(hops), false) = (to.hops, cmsg.is_null()) {
                used += put_hops(cmsg, to.v4, hops);
            }
            msg.msg_controllen = used;
            if used == 0 {
                msg.msg_control = std::ptr::null_mut();
            }
            check_len(libc::sendmsg(self.fd(), &msg, libc::MSG_NOSIGNAL))?
        };
        if sent == buf.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::WriteZero.into())
        }
    }

    /// Write the control message that names the source address; returns its space.
    ///
    /// # Safety
    /// `cmsg` points to room for it.
    unsafe fn put_local(&self, cmsg: *mut libc::cmsghdr, local: Local) -> usize {
        // SAFETY: the caller's promise; the structures are plain data.
        unsafe {
            if self.v6 {
                let info = libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr {
                        s6_addr: local.octets(),
                    },
                    ipi6_ifindex: 0,
                };
                let size = std::mem::size_of_val(&info) as libc::c_uint;
                (*cmsg).cmsg_level = libc::IPPROTO_IPV6;
                (*cmsg).cmsg_type = libc::IPV6_PKTINFO;
                (*cmsg).cmsg_len = libc::CMSG_LEN(size) as usize;
                libc::CMSG_DATA(cmsg)
                    .cast::<libc::in6_pktinfo>()
                    .write_unaligned(info);
                libc::CMSG_SPACE(size) as usize
            } else {
                let ip = local.to_ipv4_mapped().unwrap_or(Ipv4Addr::UNSPECIFIED);
                let mut info: libc::in_pktinfo = std::mem::zeroed();
                info.ipi_spec_dst.s_addr = u32::from_ne_bytes(ip.octets());
                let size = std::mem::size_of_val(&info) as libc::c_uint;
                (*cmsg).cmsg_level = libc::IPPROTO_IP;
                (*cmsg).cmsg_type = libc::IP_PKTINFO;
                (*cmsg).cmsg_len = libc::CMSG_LEN(size) as usize;
                libc::CMSG_DATA(cmsg)
                    .cast::<libc::in_pktinfo>()
                    .write_unaligned(info);
                libc::CMSG_SPACE(size) as usize
            }
        }
    }

    /// Receive one datagram or one GRO batch of one source; `WouldBlock` when there is none.
    #[inline]
    pub fn receive(&self, buf: &mut [u8]) -> io::Result<Received> {
        let mut iov = libc::iovec {
            iov_base: buf.as_mut_ptr().cast(),
            iov_len: buf.len(),
        };
        let mut control = Control::default();
        // SAFETY: as in `send`; the kernel fills name, control and data within their lengths.
        unsafe {
            let mut storage: libc::sockaddr_storage = std::mem::zeroed();
            let mut msg: libc::msghdr = std::mem::zeroed();
            msg.msg_name = (&raw mut storage).cast();
            msg.msg_namelen = std::mem::size_of_val(&storage) as libc::socklen_t;
            msg.msg_iov = &mut iov;
            msg.msg_iovlen = 1;
            msg.msg_control = control.0.as_mut_ptr().cast();
            msg.msg_controllen = std::mem::size_of_val(&control);
            let len = check_len(libc::recvmsg(self.fd(), &mut msg, libc::MSG_DONTWAIT))?;
            let (mut segment, mut local) = (len, None);
            let mut cmsg = libc::CMSG_FIRSTHDR(&msg);
            while !cmsg.is_null() {
                if (*cmsg).cmsg_level == libc::SOL_UDP && (*cmsg).cmsg_type == UDP_GRO {
                    let size = libc::CMSG_DATA(cmsg).cast::<libc::c_int>().read_unaligned();
                    segment = usize::try_from(size).unwrap_or(len);
                }
                local = local.or(get_local(cmsg));
                cmsg = libc::CMSG_NXTHDR(&msg, cmsg);
            }
            let source = address(&storage).ok_or(io::ErrorKind::InvalidData)?;
            Ok(Received {
                len,
                segment: segment.clamp(1, len.max(1)),
                source,
                local,
            })
        }
    }
}

/// Room for control messages, aligned as the kernel wants it.
#[repr(align(8))]
struct Control([u8; 96]);

impl Default for Control {
    fn default() -> Self {
        Control([0; 96])
    }
}

/// Write the control message that limits how far a datagram goes; returns its space.
///
/// # Safety
/// `cmsg` points to room for it.
unsafe fn put_hops(cmsg: *mut libc::cmsghdr, v4: bool, hops: u8) -> usize {
    let value = libc::c_int::from(hops);
    let size = std::mem::size_of_val(&value) as libc::c_uint;
    // A mapped IPv4 destination takes IPv4's message on a socket of both families too.
    let (level, kind) = if v4 {
        (libc::IPPROTO_IP, libc::IP_TTL)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT)
    };
    // SAFETY: the caller's promise.
    unsafe {
        (*cmsg).cmsg_level = level;
        (*cmsg).cmsg_type = kind;
        (*cmsg).cmsg_len = libc::CMSG_LEN(size) as usize;
        libc::CMSG_DATA(cmsg)
            .cast::<libc::c_int>()
            .write_unaligned(value);
        libc::CMSG_SPACE(size) as usize
    }
}

/// The called address in a received control message, if it is one that can be sent from.
///
/// # Safety
/// `cmsg` points to a whole control message of the kernel.
unsafe fn get_local(cmsg: *const libc::cmsghdr) -> Option<Local> {
    // SAFETY: level and type say which structure follows.
    unsafe {
        let data = libc::CMSG_DATA(cmsg);
        let local = match ((*cmsg).cmsg_level, (*cmsg).cmsg_type) {
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                Ipv6Addr::from(info.ipi6_addr.s6_addr)
            }
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes()).to_ipv6_mapped()
            }
            _ => return None,
        };
        // A link-local source needs its interface too: left to the kernel.
        (!local.is_unicast_link_local() && !local.is_multicast()).then_some(local)
    }
}

/// Parse what the kernel wrote; a mapped IPv4 address becomes plain IPv4.
fn own_address(fd: RawFd) -> io::Result<SocketAddr> {
    // SAFETY: an all-zero storage is valid and large enough.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let mut len = std::mem::size_of_val(&storage) as libc::socklen_t;
    // SAFETY: storage and its length live over the call.
    check(unsafe { libc::getsockname(fd, (&raw mut storage).cast(), &mut len) })?;
    address(&storage).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn address(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match libc::c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says which sockaddr it is.
            let a = unsafe { &*(&raw const *storage).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(a.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddr::new(ip.into(), u16::from_be(a.sin_port)))
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let a = unsafe { &*(&raw const *storage).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(a.sin6_addr.s6_addr);
            let port = u16::from_be(a.sin6_port);
            Some(match ip.to_ipv4_mapped() {
                Some(v4) => SocketAddr::new(v4.into(), port),
                None => std::net::SocketAddrV6::new(ip, port, 0, a.sin6_scope_id).into(),
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn tell_hops(socket: &std::net::UdpSocket, v4: bool) {
        let (level, name) = if v4 {
            (libc::IPPROTO_IP, libc::IP_RECVTTL)
        } else {
            (libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT)
        };
        let (on, size): (libc::c_int, _) = (1, 4);
        // SAFETY: a live int and its size.
        let set = unsafe {
            let on = (&raw const on).cast();
            libc::setsockopt(socket.as_raw_fd(), level, name, on, size)
        };
        check(set).unwrap();
    }

    /// The TTL or hop limit that the next datagram came with.
    fn hops(socket: &std::net::UdpSocket) -> libc::c_int {
        let (mut buf, mut control) = ([0u8; 64], Control::default());
        let mut iov = libc::iovec {
            iov_base: buf.as_mut_ptr().cast(),
            iov_len: buf.len(),
        };
        // SAFETY: an all-zero msghdr is valid; what it points to lives over the call.
        unsafe {
            let mut msg: libc::msghdr = std::mem::zeroed();
            msg.msg_iov = &mut iov;
            msg.msg_iovlen = 1;
            msg.msg_control = control.0.as_mut_ptr().cast();
            msg.msg_controllen = std::mem::size_of_val(&control);
            check_len(libc::recvmsg(socket.as_raw_fd(), &mut msg, 0)).unwrap();
            let cmsg = libc::CMSG_FIRSTHDR(&msg);
            assert!(!cmsg.is_null());
            libc::CMSG_DATA(cmsg).cast::<libc::c_int>().read_unaligned()
        }
    }

    /// The kernel tells from where it would call, of both families on one socket, and that it cannot.
    #[test]
    fn the_source_towards_an_address_is_the_kernels_choice() {
        let udp = Udp::bind(0, false).unwrap();
        let source = |ip: IpAddr| udp.source(&udp.raw(SocketAddr::new(ip, 9)));
        let mapped = Ipv4Addr::LOCALHOST.to_ipv6_mapped();
        assert_eq!(source(Ipv4Addr::LOCALHOST.into()), Some(mapped));
        if udp.v6 {
            assert_eq!(
                source(Ipv6Addr::LOCALHOST.into()),
                Some(Ipv6Addr::LOCALHOST)
            );
        }
        assert_eq!(source(Ipv4Addr::BROADCAST.into()), None);
    }

    /// A datagram goes as many hops as it is told, in both families and from a chosen address too.
    #[test]
    fn a_datagram_goes_as_far_as_it_is_told() {
        let udp = Udp::bind(0, false).unwrap();
        for host in ["127.0.0.1:0", "[::1]:0"] {
            let socket = std::net::UdpSocket::bind(host).unwrap();
            let at = socket.local_addr().unwrap();
            let local = match at.ip() {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            let v4 = at.is_ipv4();
            // Before the first datagram, which else does not tell.
            tell_hops(&socket, v4);
            let plain = udp.raw(at);
            for (raw, wanted) in [
                (plain.within(Some(5)), 5),
                (plain.leaving(Some(local)).within(Some(255)), 255),
                (plain, 64),
            ] {
                udp.send(&raw, b"far", 64).unwrap();
                assert_eq!(hops(&socket), wanted, "{at}");
            }
        }
    }
}
