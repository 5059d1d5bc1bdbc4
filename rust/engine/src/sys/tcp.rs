//! What a TCP connection that carries datagrams is told.

use std::io;
use std::os::fd::RawFd;

/// Unsent bytes above which the kernel takes no more: what waits there is late when it arrives.
const UNSENT: libc::c_int = 128 << 10;
/// A peer that acknowledges nothing for so long has gone.
const SILENT_MS: libc::c_int = 20_000;

pub fn tune(fd: RawFd) -> io::Result<()> {
    for (name, value) in [
        (libc::TCP_NODELAY, 1),
        (libc::TCP_NOTSENT_LOWAT, UNSENT),
        (libc::TCP_USER_TIMEOUT, SILENT_MS),
    ] {
        super::set(fd, libc::IPPROTO_TCP, name, value)?;
    }
    Ok(())
}
