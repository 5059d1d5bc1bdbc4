//! A TUN device with virtio headers and segmentation offload.
//!
//! Source: Linux `Documentation/networking/tuntap.rst`; `include/uapi/linux/if_tun.h`.

use super::{check, check_len};
use crate::error::{Error, Result};
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54d8;
const TUN_F_CSUM: libc::c_ulong = 1;
const TUN_F_TSO4: libc::c_ulong = 2;
const TUN_F_TSO6: libc::c_ulong = 4;
const TUN_F_USO4: libc::c_ulong = 0x20;
const TUN_F_USO6: libc::c_ulong = 0x40;

/// What the kernel agreed to carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offload {
    /// Every packet has a virtio_net_hdr in front, and TCP super-packets cross whole.
    pub vnet_hdr: bool,
    /// UDP super-packets cross whole too (Linux 6.2 and later).
    pub uso: bool,
}

pub struct Tun {
    fd: OwnedFd,
    name: String,
    pub offload: Offload,
}

impl Tun {
    /// Create the device, down and without addresses. `want_vnet_hdr` false forces the fallback.
    pub fn create(name: &str, want_vnet_hdr: bool) -> Result<Tun> {
        if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains(['/', '\0', ' ']) {
            return Err(Error::Invalid(
                "a TUN name has 1 to 15 characters, no slash or space",
            ));
        }
        if want_vnet_hdr && let Ok(tun) = Tun::open(name, true) {
            return Ok(tun);
        }
        Tun::open(name, false)
    }

    fn open(name: &str, vnet_hdr: bool) -> Result<Tun> {
        let path: &CStr = c"/dev/net/tun";
        // SAFETY: a constant path; the descriptor is ours.
        let fd = unsafe {
            let flags = libc::O_RDWR | libc::O_NONBLOCK | libc::O_CLOEXEC;
            OwnedFd::from_raw_fd(check(libc::open(path.as_ptr(), flags)).map_err(Error::Tun)?)
        };
        // SAFETY: an all-zero ifreq is valid; the name was checked to fit with its NUL.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        let mut flags = libc::IFF_TUN | libc::IFF_NO_PI;
        if vnet_hdr {
            flags |= libc::IFF_VNET_HDR;
        }
        request.ifr_ifru.ifru_flags = flags as libc::c_short;
        // SAFETY: TUNSETIFF takes a pointer to an ifreq and writes the final name into it.
        check(unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETIFF, &mut request) })
            .map_err(Error::Tun)?;
        let mut offload = Offload {
            vnet_hdr,
            uso: false,
        };
        if vnet_hdr {
            let size: libc::c_int = veilnet_wire::vnet::VNET as libc::c_int;
            // SAFETY: takes a pointer to an int.
            check(unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETVNETHDRSZ, &size) })
                .map_err(Error::Tun)?;
            let tso = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
            // SAFETY: takes the flags by value.
            check(unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETOFFLOAD, tso) })
                .map_err(Error::Tun)?;
            let uso = tso | TUN_F_USO4 | TUN_F_USO6;
            // SAFETY: as above; refused by kernels before 6.2.
            offload.uso = check(unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETOFFLOAD, uso) }).is_ok();
        }
        // SAFETY: the kernel left a NUL-terminated name.
        let name = unsafe { CStr::from_ptr(request.ifr_name.as_ptr()) };
        Ok(Tun {
            fd,
            name: name.to_string_lossy().into_owned(),
            offload,
        })
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Read one (super-)packet, with its virtio header if there is one.
    #[inline]
    pub fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        // SAFETY: reads at most the slice's length into it.
        check_len(unsafe { libc::read(self.fd(), buf.as_mut_ptr().cast(), buf.len()) })
    }

    /// Write one (super-)packet, with its virtio header if the device has them.
    #[inline]
    pub fn write(&self, buf: &[u8]) -> io::Result<usize> {
        // SAFETY: writes the slice.
        check_len(unsafe { libc::write(self.fd(), buf.as_ptr().cast(), buf.len()) })
    }
}
