//! The command line of tidelog.
fn main() {}
