//! Lookup sessions between two engines on the loopback address.

use crate::world::{DOOR, K_NET, NETWORK, SS, at, expect, meet, open, say, stats, until};
use std::sync::{Arc, Mutex};
use veilnet_engine::{Circuit, Core, Engine, Error, Event, Result, StepLimits};
use veilnet_handshake::{Event as Contact, KeySchedule, Mode, OsRng, Suite};

const NOBODY: [u8; 32] = [0; 32];

struct Lookup {
    a: Engine,
    b: Engine,
    sid_a: u32,
    sid_b: u32,
    schedule_a: Arc<Mutex<KeySchedule>>,
}

fn lookup() -> Lookup {
    let (a, b) = (open(StepLimits::default()), open(StepLimits::default()));
    b.call(|core, _| core.add_door(&DOOR, false))
        .unwrap()
        .unwrap();
    let to = at(&b);
    let ek = [9; 1184];
    let schedule = KeySchedule::initiate(
        Suite::S1,
        Mode::Lookup,
        NETWORK,
        K_NET,
        &NOBODY,
        &ek,
        &mut OsRng,
    );
    let schedule_a = Arc::new(Mutex::new(schedule.unwrap()));
    let sid_a = schedule_a.lock().unwrap().local_sid();
    let own = Arc::clone(&schedule_a);
    a.call(move |c, now| c.hello(&own, &DOOR, to, false, now))
        .unwrap()
        .unwrap();
    let init = expect(&b, "INIT", |e| match e {
        Event::Handshake(Contact::Init(init)) => Some(init),
        _ => None,
    });
    assert_eq!(init.mode, Mode::Lookup);
    let schedule =
        KeySchedule::respond(&init, NETWORK, K_NET, &NOBODY, &[5; 1088], &SS, &mut OsRng);
    let schedule = Arc::new(Mutex::new(schedule.unwrap()));
    let sid_b = schedule.lock().unwrap().local_sid();
    b.call(move |c, now| c.respond(&schedule, &init, Vec::new(), now))
        .unwrap()
        .unwrap();
    let candidate = expect(&a, "key part", |e| match e {
        Event::Handshake(Contact::Candidate { candidate, .. }) => Some(candidate),
        _ => None,
    });
    a.call(move |c, now| c.candidate(sid_a, candidate, &SS, now))
        .unwrap()
        .unwrap();
    expect(&a, "the session", |e| match e {
        Event::Handshake(Contact::Message { bytes, source, .. }) => {
            assert!(bytes.is_empty());
            assert_eq!(source, to);
            Some(())
        }
        _ => None,
    });
    Lookup {
        a,
        b,
        sid_a,
        sid_b,
        schedule_a,
    }
}

/// Control crosses both ways after one round trip behind the cookie; the first word confirms.
#[test]
fn control_crosses_a_lookup() {
    let l = lookup();
    assert!(stats(&l.a, l.sid_a).confirmed && stats(&l.a, l.sid_a).lookup);
    assert!(!stats(&l.b, l.sid_b).confirmed);
    say(&l.a, l.sid_a, &l.b, b"who is near this?");
    assert!(stats(&l.b, l.sid_b).confirmed);
    say(&l.b, l.sid_b, &l.a, b"these are");
    for _ in 0..100 {
        say(&l.a, l.sid_a, &l.b, &[7; 1100]);
    }
}

/// The engine refuses everything but control on it, in every call that names a session.
#[test]
fn a_lookup_is_for_control_alone() {
    let l = lookup();
    let (sid, to) = (l.sid_a, at(&l.b));
    let schedule = Arc::clone(&l.schedule_a);
    let met = meet(&l.a, &l.b, to);
    let full = met.sid_a;
    let circuit = |link| Circuit { link, label: 7 };
    type Try = Box<dyn FnOnce(&mut Core, u64) -> Result<()> + Send>;
    let tries: Vec<(&str, Try)> = vec![
        (
            "assign",
            Box::new(move |c, now| c.assign(sid, Vec::new(), now)),
        ),
        ("probe", Box::new(move |c, now| c.probe_now(sid, None, now))),
        (
            "open_path",
            Box::new(move |c, now| c.open_path(sid, 2, to, now)),
        ),
        ("close_path", Box::new(move |c, _| c.close_path(sid, 0))),
        (
            "shares",
            Box::new(move |c, now| c.set_shares(sid, &[(0, 1.0)], None, now)),
        ),
        (
            "endpoint",
            Box::new(move |c, now| c.set_endpoint(sid, to, now)),
        ),
        (
            "return key",
            Box::new(move |c, _| c.set_peer_return_key(sid, &[1; 32])),
        ),
        (
            "join",
            Box::new(move |c, _| c.join_circuit(circuit(sid)).map(|_| ())),
        ),
        (
            "rebind",
            Box::new(move |c, now| c.rebind_link(full, sid, now)),
        ),
        (
            "relay",
            Box::new(move |c, now| {
                let quota = (1 << 30, 1 << 20, 1 << 30);
                c.add_circuit(circuit(full), circuit(sid), quota, now)
            }),
        ),
        (
            "generation",
            Box::new(move |c, now| {
                let mut schedule = schedule.lock().unwrap();
                let offer = schedule.next_begin(&[6; 1184], &mut OsRng)?;
                schedule.next_abort();
                let keys = schedule
                    .next_respond(&offer, &[8; 1088], &SS, &mut OsRng)?
                    .keys;
                c.install_generation(sid, keys, true, now)
            }),
        ),
    ];
    for (what, call) in tries {
        let refused = l.a.call(call).unwrap();
        assert!(
            matches!(refused, Err(Error::Invalid(_))),
            "{what}: {refused:?}"
        );
    }
    say(&l.a, sid, &l.b, b"it still carries control");
}

/// A closed lookup session is gone, and so is what the gate kept for it.
#[test]
fn a_lookup_closes() {
    let l = lookup();
    let sid = l.sid_b;
    l.b.call(move |c, now| c.close_session(sid, now)).unwrap();
    let sid = l.sid_a;
    let unknown = l.b.call(|c, _| c.stats()).unwrap().rx_unknown;
    l.a.call(move |c, now| c.send_control(sid, b"gone?", now))
        .unwrap()
        .unwrap();
    until("silence", || {
        l.b.call(|c, _| c.stats()).unwrap().rx_unknown > unknown
    });
    assert!(l.b.call(|c, now| c.session_stats(now)).unwrap().is_empty());
}
