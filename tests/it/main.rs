//! Integration tests: one binary, so that they link once.

mod corpora;
#[cfg(feature = "sim")]
mod crash;
mod engine;
mod follow;
#[cfg(feature = "sim")]
mod repair;
mod tidy;
