//! tidelog: an embeddable append-only log with leader-based, file-shipping replication.

// Tests count in small numbers.
#![cfg_attr(test, allow(clippy::cast_possible_truncation))]

#[cfg(feature = "client")]
pub mod client;
mod crc;
pub mod error;
pub mod frame;
pub mod fs;
#[cfg(feature = "fuzz")]
pub mod fuzz;
pub mod log;
#[doc(hidden)]
pub mod mutant;
pub mod position;
pub mod record;
pub mod replica;
pub mod segment;
#[cfg(feature = "server")]
pub mod server;
pub mod ship;
#[cfg(feature = "sql")]
pub mod sql;
pub mod table;
#[cfg(feature = "text")]
pub mod text;

pub use error::{Error, Kind, Result};
pub use log::{
    Append, Appended, Compression, Cursor, Durability, Entry, Expect, Identity, Log, Options,
    OwnedEntry, Preallocate, Recovery, Tail, Ticket, Verification, Visibility,
};
pub use position::{Epoch, Fingerprint, Id, LogByte, Offset, Position, Token};
pub use record::{Batch, Op, Record};
pub use replica::Follower;
pub use table::{Apply, Table};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
