//! Every bound of the gate, in one place.

use crate::budget::Rate;

/// Sizes and rates of a gate. The defaults are the design's; tests make them small.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Doors of a node.
    pub doors: usize,
    /// Door nonces remembered.
    pub nonces: usize,
    /// Commitments remembered for the shell to persist.
    pub coms: usize,
    /// Commitments whose INIT was processed. A cookie lives 2 minutes at most, so this covers all
    /// that `global` can admit in that time, at members' doors and at the public one: nothing is
    /// processed twice.
    pub processed: usize,
    /// Handshakes of the initiator.
    pub offers: usize,
    /// Endpoints that one offer races.
    pub endpoints: usize,
    /// Handshakes that share one source address, per role.
    pub per_source: usize,
    /// Whole INITs that Python has not answered.
    pub waiting: usize,
    /// Answers of the responder, cached for retransmission.
    pub answers: usize,
    /// Key parts tried per offer at one time.
    pub candidates: usize,
    /// Key parts reported per offer in all.
    pub candidates_total: u32,
    /// Sealed datagrams that wait for their key, per offer.
    pub stash: usize,
    /// Bytes of all assemblies and stashes.
    pub assembly_bytes: usize,
    /// Tickets remembered as spent, each until it expires; beyond them tickets are refused.
    pub spent: usize,
    /// Datagrams behind AUTH that wait for its verification, per handshake.
    pub early: usize,
    /// The bytes of these.
    pub early_bytes: usize,
    /// The bytes of all of them; strangers have less (`Responder::early_room`).
    pub early_bytes_in_all: usize,
    /// Rate buckets per table.
    pub buckets: usize,
    /// New handshakes per /24 or /64, after the cookie.
    pub per_prefix: Rate,
    /// New handshakes in all, after the cookie: of members' doors, and again of the public one.
    pub global: Rate,
    /// HELLO bytes towards one unproven address.
    pub unproven_address: Rate,
    /// HELLO bytes towards one unproven prefix.
    pub unproven_prefix: Rate,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            doors: 16,
            nonces: 65_536,
            coms: 4096,
            processed: 16_384,
            offers: 256,
            endpoints: 8,
            per_source: 16,
            waiting: 256,
            answers: 256,
            candidates: 4,
            candidates_total: 16,
            stash: 16,
            assembly_bytes: 4 << 20,
            spent: 4096,
            early: 64,
            early_bytes: 64 << 10,
            early_bytes_in_all: 1 << 20,
            buckets: 4096,
            per_prefix: Rate {
                per_s: 16,
                burst: 64,
            },
            global: Rate {
                per_s: 64,
                burst: 256,
            },
            unproven_address: Rate {
                per_s: 2048,
                burst: 16_384,
            },
            unproven_prefix: Rate {
                per_s: 16_384,
                burst: 131_072,
            },
        }
    }
}

/// Nanoseconds of a second.
pub(crate) const SECOND: u64 = 1_000_000_000;
/// An unfinished INIT or key part.
pub(crate) const ASSEMBLY_NS: u64 = 3 * SECOND;
/// A whole INIT that Python does not answer.
pub(crate) const WAITING_NS: u64 = 30 * SECOND;
/// A handshake that nothing happens to.
pub(crate) const IDLE_NS: u64 = 120 * SECOND;
/// Handshake keys after the session exists, for a retransmitted AUTH.
pub(crate) const LINGER_NS: u64 = 10 * SECOND;
/// A cached RESP is not sent to one source more often (half of the first retransmission).
pub(crate) const RESEND_GAP_NS: u64 = SECOND / 4;
