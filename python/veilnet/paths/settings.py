"""The coefficients of the shipped policy; what each is for was found in simulation: ADR 7."""

from __future__ import annotations

from attrs import frozen

from veilnet.paths.cost import KappaGate


@frozen
class VeilSettings:
    """Every coefficient, so that an experiment can vary one; the defaults are what ships."""

    gate: KappaGate = KappaGate.BUSY
    kappa: float = 1.0
    alpha: float = 1.25
    """Times the relative gain is the part that moves per second ..."""
    alpha_priced: float = 0.3
    """... and where queueing is priced, which makes a gain look larger than it is."""
    window: float = 1.08
    window_ms: float = 2.0
    temperature: float = 0.03
    temperature_ms: float = 1.0
    gain: float = 0.03
    gain_ms: float = 3.0
    open_already: float = 0.3
    """What is left of the required gain when the path is open: no cost of opening."""
    restless_s: float = 120.0
    """What was moved between relays is forgotten with this time constant.  Beyond `restless_free`
    of it (1: all the traffic, once) somebody is likely to be answering himself: a few who share
    relays see each other's moves as news of the relays ..."""
    restless_free: float = 1.0
    restless_most: float = 2.0
    """... and no more than this beyond that is remembered ..."""
    restless_sigmas: float = 3.0
    """... so that each whole beyond asks for so many deviations of the other arm as a gain ..."""
    restless_ms: float = 150.0
    """... though never for more than this ..."""
    restless_slow: float = 3.0
    """... and slows what moves so many times."""
    least_share: float = 0.05
    heard_only: bool = False
    """Data moves only to arms that were measured, however good their legs look: costs 10 points
    in a crowd, where there is no time to probe everything first.
    """
    tau_s: float = 15.0
    found_ms: float = 5.0
    """So much dearer than what carries a direct path may seem that was just found."""
    level_gain: float = 0.05
    level_clip_ms: float = 400.0
    burnt_s: float = 5.0
    """After data found an arm so bad, no probe's praise leads it back at once."""
    outlier_sigmas: float = 4.0
    """What is further from the level than so many of its deviations, moves it no more than that:
    an episode is a swing, and the level is what the arm goes back to.
    """
    together_s: float = 3.0
    """Where decisions are further apart than this, a sample is no mere second: it is believed."""
    abrupt_ms: float = 200.0
    """What losing a tenth costs, at which the engine leaves a path too: nobody waits for a second
    sample that says so.
    """
    outlier_ms: float = 5.0
    outlier: float = 0.1
    """Part of the level that is no outlier whatever the deviation."""
    count_max: float = 40.0
    count_keep: float = 0.997
    probe_rate: float = 0.25
    probe_rate_quiet: float = 0.1
    stalest: float = 0.02
    """Part of the probes that goes to whatever was not seen for longest.  It needs to be more than
    nothing, for what Thompson sampling has given up; with 20 arms a fifth left too few for the
    arms that may be best.
    """
    s0_ms: float = 30.0
    q: float = 0.003
    suspect_sigmas: float = 3.0
    suspect_drift: float = 1.0
    suspect_relief: float = 0.2
    """What a second of data without surprise takes off the evidence."""
    suspect_limit: float = 3.0
    suspect_patience: int = 3
    """A probe that was asked for so often is not of the same second any more."""
    bias_half_life_s: float = 600.0
    """At most; the first one is shorter, and doubles each time that the arm is found out."""
    relay_half_life_s: float = 30.0
    """The first: a relay that was throttled for a moment is no liar yet."""
    relay_forgiving: float = 0.998
    """Part of the grudge that a second of data without surprise leaves."""
    direct_half_life_s: float = 1.0
    """Of the direct path: it may be shaped for a while, it has no relay that lies."""
    direct_forgiving: float = 0.98
    bias_max_ms: float = 1_000.0
    bias_relief: float = 0.5
    """How far one second of data goes from the charge to what it cost beyond the forecast."""
