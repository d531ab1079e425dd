//! Integration tests: one binary, so that they link once.

// Tests count in small numbers.
#![allow(clippy::cast_possible_truncation)]

#[cfg(feature = "cli")]
mod archive;
#[cfg(feature = "cli")]
mod cli;
#[cfg(all(feature = "cli", feature = "sim"))]
mod coordinator;
mod corpora;
#[cfg(feature = "sim")]
mod crash;
#[cfg(feature = "sim")]
mod damage;
#[cfg(feature = "cli")]
mod demo;
mod engine;
#[cfg(all(feature = "cli", feature = "sim"))]
mod failover;
#[cfg(feature = "sim")]
mod faults;
mod follow;
#[cfg(all(feature = "server", feature = "client"))]
mod modes;
#[cfg(feature = "cli")]
mod outputs;
#[cfg(all(feature = "server", feature = "client"))]
#[path = "../../bin/torture/proxy.rs"]
#[allow(dead_code, reason = "the torture programme uses the rest")]
mod proxy;
#[cfg(feature = "cli")]
mod rejoin;
#[cfg(feature = "sim")]
mod repair;
#[cfg(all(feature = "server", feature = "client"))]
mod serve;
#[cfg(feature = "cli")]
mod sql;
#[cfg(feature = "cli")]
mod status;
#[cfg(feature = "sim")]
mod syscalls;
#[cfg(feature = "cli")]
mod table;
#[cfg(feature = "sim")]
mod table_crash;
mod tidy;
#[cfg(feature = "cli")]
mod urls;
