//! The handle: calls are closures that the data thread runs between two batches.
//!
//! The thread owns [`Core`] outright, so nothing on the data path is locked. A call waits for its
//! answer: at most one batch, or one wake-up when the thread sleeps. INVARIANT: after the thread
//! ended, for whatever reason, every call returns an error at once.

use crate::core::{Core, Options};
use crate::error::{Error, Result};
use crate::events::{Event, Events};
use crate::sys::wake::{Wake, wait_readable};
use crate::sys::{now_ns, yield_now};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::thread::JoinHandle;

/// After work the thread looks again for so long before it sleeps: a wake-up costs more than this.
const SPIN_NS: u64 = 30_000;

type Call = Box<dyn FnOnce(&mut Core, u64) + Send>;

enum State {
    Running(VecDeque<Call>),
    Closed,
    Broken(String),
}

struct Shared {
    state: Mutex<State>,
    /// Set when calls wait, so that the thread need not lock to find out.
    called: AtomicBool,
    closing: AtomicBool,
    wake: Wake,
    events: Arc<Events>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// The data plane of one node.
pub struct Engine {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    port: u16,
    tun: Option<String>,
}

impl Engine {
    /// Open socket and TUN device, then start the data thread.
    pub fn open(options: Options) -> Result<Engine> {
        let events = Arc::new(Events::new().map_err(Error::os("eventfd"))?);
        let core = Core::open(options, Arc::clone(&events))?;
        let (port, tun) = (core.port()?, core.tun_name());
        let shared = Arc::new(Shared {
            state: Mutex::new(State::Running(VecDeque::new())),
            called: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            wake: Wake::new().map_err(Error::os("eventfd"))?,
            events,
        });
        let own = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("veilnet-data".into())
            .spawn(move || supervise(&own, core))
            .map_err(Error::os("data thread"))?;
        Ok(Engine {
            shared,
            thread: Mutex::new(Some(thread)),
            port,
            tun,
        })
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    #[must_use]
    pub fn tun_name(&self) -> Option<&str> {
        self.tun.as_deref()
    }

    /// The descriptor that is readable while events wait.
    #[must_use]
    pub fn event_fd(&self) -> i32 {
        self.shared.events.fd()
    }

    pub fn drain(&self, limit: usize) -> Vec<Event> {
        self.shared.events.drain(limit)
    }

    /// Run `f` on the data thread and wait for what it returns.
    pub fn call<R, F>(&self, f: F) -> Result<R>
    where
        R: Send + 'static,
        F: FnOnce(&mut Core, u64) -> R + Send + 'static,
    {
        let (answer, answered) = mpsc::sync_channel(1);
        match &mut *self.shared.state() {
            State::Running(calls) => calls.push_back(Box::new(move |core, now_ns| {
                // The caller waits below and cannot have gone.
                let _ = answer.send(f(core, now_ns));
            })),
            State::Closed => return Err(Error::Closed),
            State::Broken(why) => return Err(Error::Broken(why.clone())),
        }
        self.shared.called.store(true, Ordering::Release);
        self.shared.wake.raise();
        answered.recv().map_err(|_| self.ended())
    }

    fn ended(&self) -> Error {
        match &*self.shared.state() {
            State::Broken(why) => Error::Broken(why.clone()),
            _ => Error::Closed,
        }
    }

    /// Stop the data thread and wait for it; again is harmless.
    pub fn close(&self) {
        self.shared.closing.store(true, Ordering::Release);
        self.shared.called.store(true, Ordering::Release);
        self.shared.wake.raise();
        let thread = self.thread.lock().unwrap_or_else(|e| e.into_inner()).take();
        if let Some(thread) = thread {
            // A panic inside was caught and told by `supervise`.
            let _ = thread.join();
        }
    }

    #[must_use]
    pub fn is_running(&self) -> bool {
        matches!(&*self.shared.state(), State::Running(_))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.close();
    }
}

/// Run the loop; whatever ends it, later calls get an error and Python an event.
fn supervise(shared: &Shared, mut core: Core) {
    let outcome = catch_unwind(AssertUnwindSafe(|| data_loop(shared, &mut core)));
    let end = match outcome {
        Ok(()) => State::Closed,
        Err(panic) => {
            let text = panic
                .downcast_ref::<&str>()
                .map(|s| (*s).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned());
            let reason = text.unwrap_or_else(|| "unknown panic".into());
            shared.events.push(Event::Failed {
                reason: reason.clone(),
            });
            State::Broken(reason)
        }
    };
    // Dropping the calls that still wait ends their callers' waiting.
    let _waiting = std::mem::replace(&mut *shared.state(), end);
}

fn data_loop(shared: &Shared, core: &mut Core) {
    let mut spin_until_ns = 0;
    loop {
        let mut now = now_ns();
        if shared.called.swap(false, Ordering::Acquire) {
            if shared.closing.load(Ordering::Acquire) {
                return;
            }
            shared.wake.clear();
            let calls = match &mut *shared.state() {
                State::Running(calls) => std::mem::take(calls),
                _ => return,
            };
            for call in calls {
                call(core, now);
            }
        }
        // Receive first: replies made inside the TUN write are then read without a wake-up.
        let received = core.drain_udp(now);
        let sent = core.drain_tun(now);
        if now >= core.next_ns {
            core.tick(now);
        }
        if received || sent {
            spin_until_ns = now_ns() + SPIN_NS;
            continue;
        }
        now = now_ns();
        if now < spin_until_ns {
            yield_now();
            continue;
        }
        if now < core.next_ns && !shared.called.load(Ordering::Acquire) {
            let tun = core.tun.as_ref().map_or(-1, |t| t.fd());
            let ports = &core.underlay.ports;
            let fds = [ports.main.fd(), tun, shared.wake.fd(), ports.others_fd()];
            wait_readable(&fds, core.next_ns - now);
            core.stats.wakeups += 1;
        }
    }
}
