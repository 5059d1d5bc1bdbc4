//! An eventfd and `poll`.

use super::{check, check_len};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// A wake-up line between threads.
pub struct Wake(OwnedFd);

impl Wake {
    pub fn new() -> io::Result<Wake> {
        // SAFETY: eventfd returns a new descriptor that we own.
        unsafe {
            let fd = check(libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC))?;
            Ok(Wake(OwnedFd::from_raw_fd(fd)))
        }
    }

    pub fn raise(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: writes eight bytes from a live array. A full counter is already raised.
        let _ = check_len(unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), 8) });
    }

    pub fn clear(&self) {
        let mut count = [0u8; 8];
        // SAFETY: reads eight bytes into a live array.
        let _ = check_len(unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), 8) });
    }

    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Wait until one of `fds` is readable, at most `timeout_ns`.
pub fn wait_readable(fds: &[RawFd], timeout_ns: u64) {
    let mut set: [libc::pollfd; 4] = [libc::pollfd {
        fd: -1,
        events: libc::POLLIN,
        revents: 0,
    }; 4];
    for (slot, fd) in set.iter_mut().zip(fds) {
        slot.fd = *fd;
    }
    let timeout = libc::timespec {
        tv_sec: (timeout_ns / 1_000_000_000) as libc::time_t,
        tv_nsec: (timeout_ns % 1_000_000_000) as libc::c_long,
    };
    // SAFETY: the set and the timespec live over the call; negative fds are ignored by ppoll.
    unsafe {
        libc::ppoll(
            set.as_mut_ptr(),
            set.len() as libc::nfds_t,
            &timeout,
            std::ptr::null(),
        )
    };
}

/// Wait until `fd` is writable, at most `timeout_ms`.
pub fn wait_writable(fd: RawFd, timeout_ms: i32) -> bool {
    let mut set = libc::pollfd {
        fd,
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: one live pollfd.
    unsafe { libc::poll(&mut set, 1, timeout_ms) == 1 }
}
