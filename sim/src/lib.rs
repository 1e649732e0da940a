//! Deterministic simulation of the whole system between independent TCP stacks, with checkers. One seed is one run:
//! everything, the clock included, is computed from it.
//!
//! **What is real**: the engines of proxy, logger, transactionalizer and recovery manager, packet translation; clients and
//! backends are smoltcp, over IPv4 or IPv6, in front of which a shim does what other stacks do and smoltcp 0.12 does not.
//! **What is modelled**: the daemons' shells ([`world`]), what of their state survives them (conntrack, the segment log, the
//! proxy's key), their control connections ([`control`]), the proxy's kernel ([`kernel`]), probes of backends, middleboxes,
//! links, time.
//!
//! **Fault budget** ([`scenario`]). Each link (client–proxy, proxy–logger, logger–backend) may lose, duplicate, corrupt and
//! reorder [`scenario::FAULTS_PER_LINK`] packets, then it is clean: so progress is certain and can be demanded. At most two of
//! three backends fail, at a time or after so many logged bytes: the host falls silent, the process is killed (its kernel says
//! FIN or RST) or stands still; it may come back, and then says what it was about to say. At most two times a daemon dies, any
//! of the four, at a time or *at any step*: with a packet or message in hand, or between two actions; it is started anew after
//! at most 0.7 s with what its shell keeps. At most three times a control connection breaks, and what is under way on it is lost
//! or not; messages are late, and ten of those between the manager and others come twice. The transactionalizer reads late.
//! The kernel may refuse splices. One backend may answer with another body byte, another version, or without ranges.
//! Not simulated: forged packets, ICMP, GSO packets, more than one proxy or logger, a log that is lost or overwritten too
//! early, a client that reuses its port.
//!
//! **What must hold**: see [`world`], and of single packets [`checks`] and [`windows`].

#![allow(missing_docs, reason = "a test harness, read with its source")]
#![allow(clippy::unwrap_used, reason = "what cannot be in a model is a bug of the test, and ends it")]

pub mod addresses;
pub mod apps;
pub mod checks;
pub mod content;
pub mod control;
mod echoes;
pub mod events;
pub mod fast_path;
pub mod hosts;
pub mod kernel;
pub mod log;
pub mod middlebox;
pub mod net;
mod received;
pub mod rng;
pub mod run;
pub mod scenario;
pub mod windows;
pub mod wire;
pub mod world;
