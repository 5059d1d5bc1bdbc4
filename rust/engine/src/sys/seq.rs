//! A pair of local sockets that keep the borders of messages and tell when the other end has gone.

use super::{check, check_len};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// One end. Never blocks.
pub struct Seq(OwnedFd);

impl Seq {
    /// Both ends; each holds about `queue` bytes that the other did not take yet.
    pub fn pair(queue: usize) -> io::Result<(Seq, Seq)> {
        let mut fds = [-1; 2];
        let kind = libc::SOCK_SEQPACKET | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: the kernel writes two descriptors, which we own from then on.
        let ends = unsafe {
            check(libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()))?;
            fds.map(|fd| Seq(OwnedFd::from_raw_fd(fd)))
        };
        for end in &ends {
            super::set(
                end.fd(),
                libc::SOL_SOCKET,
                libc::SO_SNDBUF,
                i32::try_from(queue).unwrap_or(i32::MAX),
            )?;
        }
        let [one, other] = ends;
        Ok((one, other))
    }

    /// Take over a descriptor that somebody else opened; it is closed if it is no socket of messages.
    pub fn adopt(fd: RawFd) -> io::Result<Seq> {
        if fd < 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: the caller gives it away.
        let seq = Seq(unsafe { OwnedFd::from_raw_fd(fd) });
        for (name, right) in [
            (libc::SO_DOMAIN, libc::AF_UNIX),
            (libc::SO_TYPE, libc::SOCK_SEQPACKET),
        ] {
            let mut value: libc::c_int = 0;
            let mut len = std::mem::size_of_val(&value) as libc::socklen_t;
            // SAFETY: the value and its length live over the call.
            check(unsafe {
                let value = (&raw mut value).cast();
                libc::getsockopt(fd, libc::SOL_SOCKET, name, value, &mut len)
            })?;
            if value != right {
                return Err(io::ErrorKind::InvalidInput.into());
            }
        }
        // SAFETY: a descriptor of ours and plain integers.
        check(unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK) })?;
        Ok(seq)
    }

    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Send one message; `WouldBlock` when the other end is behind.
    pub fn send(&self, message: &[u8]) -> io::Result<()> {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: a live buffer and its length.
        let sent = check_len(unsafe {
            libc::send(self.fd(), message.as_ptr().cast(), message.len(), flags)
        })?;
        if sent == message.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::WriteZero.into())
        }
    }

    /// Receive one message, at most what `buf` holds; nothing left and no other end is `Ok(0)`.
    pub fn receive(&self, buf: &mut [u8]) -> io::Result<usize> {
        // SAFETY: a live buffer and its length.
        check_len(unsafe {
            libc::recv(
                self.fd(),
                buf.as_mut_ptr().cast(),
                buf.len(),
                libc::MSG_DONTWAIT,
            )
        })
    }
}
