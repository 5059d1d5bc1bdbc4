//! Two engines on the loopback address, without a TUN device: sessions, control, probes, epochs.

use crate::world::{Nat, SS, at, expect, join, open, pair, say, settle, stats, until};
use std::time::Duration;
use veilnet_engine::{Event, StepLimits};
use veilnet_handshake::OsRng;

/// Two engines agree, and control datagrams and probes cross both ways.
#[test]
fn a_session_carries_control_and_probes() {
    let p = pair(StepLimits::default());
    say(&p.a, p.sid_a, &p.b, b"ping");
    say(&p.b, p.sid_b, &p.a, b"pong");
    let sid = p.sid_a;
    p.a.call(move |c, now| c.probe_now(sid, None, now))
        .unwrap()
        .unwrap();
    expect(&p.a, "probe answer", |e| {
        matches!(e, Event::ProbeAnswered { .. }).then_some(())
    });
    assert!(stats(&p.a, p.sid_a).rtt_ns.is_some());
    settle(&p);
}

/// Links come and go beside the one that is used: no session moves.
#[test]
fn a_change_elsewhere_moves_nobody() {
    let p = pair(StepLimits::default());
    let moved =
        p.a.call(|c, now| c.underlay_changed(false, &[], now))
            .unwrap();
    assert!(moved.is_empty());
    settle(&p);
}

/// Who asks for AUTH once more, and has yet to hear that the ACK has come, is told of no error.
#[test]
fn a_confirmed_handshake_is_not_sent_again() {
    let p = pair(StepLimits::default());
    let (sid, nobody) = (p.sid_a, p.sid_a ^ 1);
    p.a.call(move |c, now| c.resend(sid, now)).unwrap().unwrap();
    p.a.call(move |c, now| c.resend(nobody, now))
        .unwrap()
        .unwrap_err();
    settle(&p);
}

/// A new generation is received at once and sent with the peer's first datagram under it.
#[test]
fn a_generation_moves_both_directions() {
    let p = pair(StepLimits::default());
    for round in 1..=6u64 {
        let (from, to) = if round % 2 == 1 {
            (
                (&p.a, &p.schedule_a, p.sid_a),
                (&p.b, &p.schedule_b, p.sid_b),
            )
        } else {
            (
                (&p.b, &p.schedule_b, p.sid_b),
                (&p.a, &p.schedule_a, p.sid_a),
            )
        };
        let offer = from
            .1
            .lock()
            .unwrap()
            .next_begin(&[6; 1184], &mut OsRng)
            .unwrap();
        let answer =
            to.1.lock()
                .unwrap()
                .next_respond(&offer, &[8; 1088], &SS, &mut OsRng)
                .unwrap();
        let (engine, sid) = (to.0, to.2);
        engine
            .call(move |c, now| c.install_generation(sid, answer.keys, false, now))
            .unwrap()
            .unwrap();
        let done = from
            .1
            .lock()
            .unwrap()
            .next_finish(&answer.message, &SS)
            .unwrap();
        let (engine, sid) = (from.0, from.2);
        engine
            .call(move |c, now| c.install_generation(sid, done.keys, true, now))
            .unwrap()
            .unwrap();
        to.1.lock().unwrap().next_confirm(&done.message).unwrap();
        assert_eq!(stats(to.0, to.2).generation, round - 1);
        say(from.0, from.2, to.0, b"under the new generation");
        assert_eq!(stats(to.0, to.2).generation, round);
        say(to.0, to.2, from.0, b"and back");
    }
}

/// A peer that is gone is told of, once, after unanswered sending.
#[test]
fn silence_is_told() {
    let p = pair(StepLimits::default());
    // Nothing of the peer's may still be on its way, or it would count as heard.
    settle(&p);
    p.b.close();
    let sid = p.sid_a;
    p.a.call(move |c, now| c.probe_now(sid, None, now))
        .unwrap()
        .unwrap();
    let silent_ns = expect(&p.a, "silence", |e| match e {
        Event::Silent { silent_ns, .. } => Some(silent_ns),
        _ => None,
    });
    assert!(
        (1_500_000_000..3_000_000_000).contains(&silent_ns),
        "{silent_ns}"
    );
}

/// A closed engine answers every call with an error, and closing twice is harmless.
#[test]
fn a_closed_engine_says_so() {
    let engine = open(StepLimits::default());
    engine.close();
    engine.close();
    assert!(matches!(
        engine.call(|c, _| c.stats()),
        Err(veilnet_engine::Error::Closed)
    ));
}

/// A panic on the data thread becomes an event and an error, never a stall.
#[test]
fn a_dying_thread_is_told() {
    let engine = open(StepLimits::default());
    let died = engine.call(|_, _| -> () { panic!("on purpose") });
    assert!(matches!(
        died,
        Err(veilnet_engine::Error::Broken(_) | veilnet_engine::Error::Closed)
    ));
    expect(&engine, "failure", |e| {
        matches!(e, Event::Failed { .. }).then_some(())
    });
    assert!(matches!(
        engine.call(|c, _| c.stats()),
        Err(veilnet_engine::Error::Broken(_))
    ));
}

/// A peer whose NAT gave it another port is followed within seconds, without a new handshake.
#[test]
fn a_rebound_peer_is_followed() {
    let (a, b) = (open(StepLimits::default()), open(StepLimits::default()));
    let nat = Nat::before(at(&b));
    let p = join(a, b, nat.inner);
    settle(&p);
    let (sid_a, sid_b, key) = (p.sid_a, p.sid_b, [0x42; 32]);
    p.b.call(move |c, _| c.set_return_keys(&[key]))
        .unwrap()
        .unwrap();
    p.a.call(move |c, _| c.set_peer_return_key(sid_a, &key))
        .unwrap()
        .unwrap();
    let moved = nat.rebind();
    until("the move", || {
        p.a.call(move |c, now| c.probe_now(sid_a, None, now))
            .unwrap()
            .unwrap();
        std::thread::park_timeout(Duration::from_millis(50));
        stats(&p.b, sid_b).endpoint == moved
    });
    say(&p.b, sid_b, &p.a, b"found you");
    say(&p.a, sid_a, &p.b, b"and I you");
}
