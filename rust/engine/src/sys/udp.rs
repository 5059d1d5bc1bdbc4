//! The underlay socket: batches of equal datagrams out (UDP_SEGMENT) and in (UDP_GRO).

use super::{check, check_len};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

const UDP_SEGMENT: libc::c_int = 103;
const UDP_GRO: libc::c_int = 104;
const BUFFER_BYTES: libc::c_int = 8 << 20;

/// One UDP socket, for both families where the host has IPv6.
pub struct Udp {
    fd: OwnedFd,
    v6: bool,
    pub gro: bool,
}

/// A socket address in the form the kernel takes.
#[derive(Clone, Copy)]
pub struct RawAddr {
    storage: libc::sockaddr_storage,
    len: libc::socklen_t,
}

/// What one receive call brought: `len` bytes in datagrams of `segment` bytes, the last shorter.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    pub len: usize,
    pub segment: usize,
    pub source: SocketAddr,
}

impl Udp {
    pub fn bind(port: u16, want_gro: bool) -> io::Result<Udp> {
        match Udp::open(true, port, want_gro) {
            // EAFNOSUPPORT, or IPv6 disabled by sysctl (EADDRNOTAVAIL).
            Err(e)
                if matches!(
                    e.raw_os_error(),
                    Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
                ) =>
            {
                Udp::open(false, port, want_gro)
            }
            other => other,
        }
    }

    fn open(v6: bool, port: u16, want_gro: bool) -> io::Result<Udp> {
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
            if udp.set(libc::SOL_SOCKET, force, BUFFER_BYTES).is_err() {
                udp.set(libc::SOL_SOCKET, plain, BUFFER_BYTES)?;
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
        let size = std::mem::size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: passes a live int and its size.
        check(unsafe {
            libc::setsockopt(self.fd(), level, name, (&raw const value).cast(), size)
        })?;
        Ok(())
    }

    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    pub fn port(&self) -> io::Result<u16> {
        // SAFETY: an all-zero storage is valid and large enough.
        let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        let mut len = std::mem::size_of_val(&storage) as libc::socklen_t;
        // SAFETY: storage and its length live over the call.
        check(unsafe { libc::getsockname(self.fd(), (&raw mut storage).cast(), &mut len) })?;
        address(&storage)
            .map(|a| a.port())
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
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
        }
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
            if buf.len() > segment {
                msg.msg_control = control.0.as_mut_ptr().cast();
                msg.msg_controllen = libc::CMSG_SPACE(2) as usize;
                let cmsg = libc::CMSG_FIRSTHDR(&msg);
                (*cmsg).cmsg_level = libc::SOL_UDP;
                (*cmsg).cmsg_type = UDP_SEGMENT;
                (*cmsg).cmsg_len = libc::CMSG_LEN(2) as usize;
                libc::CMSG_DATA(cmsg)
                    .cast::<u16>()
                    .write_unaligned(segment as u16);
            }
            check_len(libc::sendmsg(self.fd(), &msg, libc::MSG_NOSIGNAL))?
        };
        if sent == buf.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::WriteZero.into())
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
            let mut segment = len;
            let mut cmsg = libc::CMSG_FIRSTHDR(&msg);
            while !cmsg.is_null() {
                if (*cmsg).cmsg_level == libc::SOL_UDP && (*cmsg).cmsg_type == UDP_GRO {
                    let size = libc::CMSG_DATA(cmsg).cast::<libc::c_int>().read_unaligned();
                    segment = usize::try_from(size).unwrap_or(len);
                }
                cmsg = libc::CMSG_NXTHDR(&msg, cmsg);
            }
            let source = address(&storage).ok_or(io::ErrorKind::InvalidData)?;
            Ok(Received {
                len,
                segment: segment.clamp(1, len.max(1)),
                source,
            })
        }
    }
}

/// Room for control messages, aligned as the kernel wants it.
#[repr(align(8))]
struct Control([u8; 64]);

impl Default for Control {
    fn default() -> Self {
        Control([0; 64])
    }
}

/// Parse what the kernel wrote; a mapped IPv4 address becomes plain IPv4.
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
