//! Many descriptors behind one that is polled, and `poll` over a list.

use super::{check, check_len};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// A set of descriptors, each with a number of the caller's.
pub struct Set(OwnedFd);

impl Set {
    pub fn new() -> io::Result<Set> {
        // SAFETY: a new descriptor that we own.
        unsafe {
            let fd = check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?;
            Ok(Set(OwnedFd::from_raw_fd(fd)))
        }
    }

    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Watch for something to read. A descriptor leaves the set when it is closed.
    pub fn add(&self, fd: RawFd, name: u64) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: libc::EPOLLIN as u32,
            u64: name,
        };
        // SAFETY: the event lives over the call.
        check(unsafe { libc::epoll_ctl(self.fd(), libc::EPOLL_CTL_ADD, fd, &mut event) })?;
        Ok(())
    }

    /// The names of those that are readable now, as many as fit.
    pub fn ready(&self, names: &mut [u64; READY]) -> usize {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; READY];
        // SAFETY: room for as many events as told.
        let count = check_len(unsafe {
            libc::epoll_wait(self.fd(), events.as_mut_ptr(), READY as libc::c_int, 0) as isize
        })
        .unwrap_or(0);
        for (name, event) in names.iter_mut().zip(events.iter().take(count)) {
            *name = event.u64;
        }
        count
    }
}

/// Names told by one call.
pub const READY: usize = 64;

/// What to wait for on a descriptor, and what came.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    pub fd: RawFd,
    pub read: bool,
    pub write: bool,
}

/// Wait for one of `wanted`, at most `timeout`; afterwards each tells what may be done now.
///
/// An error or hang-up counts as both: the next read or write says what it was.
pub fn wait(wanted: &mut [Wanted], set: &mut Vec<libc::pollfd>, timeout: Option<Duration>) {
    set.clear();
    set.extend(wanted.iter().map(|w| libc::pollfd {
        // Errors are told even if nothing is asked for: leave out what nothing is wanted of.
        fd: if w.read || w.write { w.fd } else { -1 },
        events: (if w.read { libc::POLLIN } else { 0 }) | (if w.write { libc::POLLOUT } else { 0 }),
        revents: 0,
    }));
    let timeout_ms = timeout.map_or(-1, |t| {
        i32::try_from(t.as_millis().saturating_add(1)).unwrap_or(i32::MAX)
    });
    // SAFETY: a live array and its length.
    unsafe { libc::poll(set.as_mut_ptr(), set.len() as libc::nfds_t, timeout_ms) };
    for (w, got) in wanted.iter_mut().zip(set.iter()) {
        let failed = got.revents & (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) != 0;
        w.read = w.read && (failed || got.revents & libc::POLLIN != 0);
        w.write = w.write && (failed || got.revents & libc::POLLOUT != 0);
    }
}
