//! The label tree: every label of VeilNet in one table, used by both languages.
//!
//! A label begins each hash and each Expand, so that no two uses of one key or one hash can
//! meet. Inputs follow it, each with a 4-byte big-endian length (see `transcript`); the few that
//! are made outside this crate say so when they are not length-prefixed (one input, fixed length).

/// One label: how it is named in code, what stands in the hash, what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// Name in code and documentation.
    pub name: &'static str,
    /// The bytes that are hashed.
    pub text: &'static str,
    /// Inputs after the label and purpose.
    pub about: &'static str,
}

macro_rules! labels {
    ($($name:ident = $text:literal, $about:literal;)*) => {
        $(
            #[doc = $about]
            pub const $name: Label = Label { name: stringify!($name), text: $text, about: $about };
        )*
        /// Every label, in the order of the tree.
        pub const ALL: &[Label] = &[$($name),*];
    };
}

labels! {
    PROTO = "VNH1", "First input of H0: the protocol and its version.";
    ID = "veilnet/id/1", "SHA-256 of this || alg || ML-DSA public key is the peer id (not length-prefixed).";
    DOOR = "veilnet/door", "HKDF-Expand(K_net; this || peer id of the responder) = K_door, SHA-384 (not length-prefixed).";
    JOIN_KEY = "veilnet/join/key", "HKDF-Expand(seed of an invite; this) = K_join, SHA-384 (not length-prefixed).";
    JOIN_DOOR = "veilnet/join/door", "HKDF-Expand(seed of an invite; this) = K_door of the invite, SHA-384 (not length-prefixed).";
    DOOR_SEAL = "veilnet/door/1/seal", "Expand(K_door; n) = AES-256-GCM key of one datagram, SHA-256.";
    COOKIE = "veilnet/door/1/cookie", "HMAC-SHA-256(K_ck; source, com, bucket), cut to 16 bytes.";
    TICKET_SEAL = "veilnet/ticket/1/seal", "Expand(K_tk; n) = AES-256-GCM key of one ticket, SHA-256.";
    TICKET_KEY = "veilnet/ticket/1/key", "Expand(K_tk; n) = k_res, what the holder of that ticket proves it with, SHA-256.";
    TICKET_MAC = "veilnet/ticket/1/mac", "Expand(k_res; com) = 16 bytes beside the ticket in INIT, SHA-256.";
    H0 = "veilnet/hs1/h0", "Hash(PROTO, network id, suite, mode).";
    HALF = "veilnet/hs1/half", "Hash(kind with k, sidI, nI, half k of X || ek), cut to 32 bytes: h_k.";
    COM = "veilnet/hs1/com", "Hash(h_0, h_1), cut to 32 bytes: the initiator's commitment.";
    DIGEST = "veilnet/hs1/digest", "Hash(sidR, Y, ct), cut to 16 bytes: joins the two halves of a RESP.";
    TH2 = "veilnet/hs1/th2", "Hash(H0, secret, idR, com, X, ek, Y, ct, sidR).";
    TH3 = "veilnet/hs1/th3", "Hash(th2, e2).";
    TH4 = "veilnet/hs1/th4", "Hash(th3, e3).";
    K_HR = "veilnet/hs1/k_hr", "Expand(ck; th2) = key || iv of RESP's sealed part.";
    K_HI = "veilnet/hs1/k_hi", "Expand(ck; th2) = key || iv of AUTH.";
    MASK_I = "veilnet/hs1/mask_i", "Expand(ck; th2) = header mask of what the initiator sends.";
    MASK_R = "veilnet/hs1/mask_r", "Expand(ck; th2) = header mask of what the responder sends.";
    LOOKUP = "veilnet/hs1/lookup", "Expand(ck; th2) = 32 bytes behind the ct of a lookup's RESP: whoever sent it holds ck.";
    DERIVED = "veilnet/hs1/derived", "Expand(ck) = salt of ms_0.";
    SIG_RESP = "veilnet/hs1/resp", "FIPS 204 context of the responder's signature.";
    SIG_INIT = "veilnet/hs1/init", "FIPS 204 context of the initiator's signature.";
    SIG_CRED = "veilnet/cred/1", "FIPS 204 context of a credential.";
    I_DATA = "veilnet/ms1/i/data", "Expand(ms_g) = data chain, initiator to responder.";
    I_CONTROL = "veilnet/ms1/i/control", "Expand(ms_g) = control chain, initiator to responder.";
    I_RELAY = "veilnet/ms1/i/relay", "Expand(ms_g) = relay chain, initiator to responder.";
    R_DATA = "veilnet/ms1/r/data", "Expand(ms_g) = data chain, responder to initiator.";
    R_CONTROL = "veilnet/ms1/r/control", "Expand(ms_g) = control chain, responder to initiator.";
    R_RELAY = "veilnet/ms1/r/relay", "Expand(ms_g) = relay chain, responder to initiator.";
    RK = "veilnet/ms1/rk", "Expand(ms_g) = rk_g, the root that the next generation starts from.";
    EXPORTER = "veilnet/ms1/exporter", "Expand(ms_g) = exporter secret of generation g.";
    EXPORT = "veilnet/ms1/export", "Expand(exporter; label, context) = an exported key.";
    FINGERPRINT = "veilnet/ms1/fingerprint", "Expand(exporter) = 32 public bytes, equal on both sides.";
    KEY = "veilnet/ms1/key", "Expand(chain; class || path) = key || iv.";
    STEP = "veilnet/ms1/step", "Expand(chain) = the chain one step later.";
    NEXT = "veilnet/ms1/next", "Hash(th4, g + 1, both messages): transcript of a new generation.";
    CONFIRM_BEGIN = "veilnet/ms1/confirm/begin", "Expand(ms_{g+1}) = MAC key of the side that began.";
    CONFIRM_REPLY = "veilnet/ms1/confirm/reply", "Expand(ms_{g+1}) = MAC key of the side that replied.";
    PSK = "veilnet/ms1/psk", "Expand(rk_g) = psk of the next full handshake of the same peers.";
    PSK_NAME = "veilnet/ms1/psk/name", "Expand(rk_g) = 16 public bytes that name that psk.";
}
