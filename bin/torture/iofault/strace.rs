//! The same on the real binary.

use std::path::Path;

use crate::line::Line;

pub fn run(_binary: Option<&Path>, line: &mut Line) -> Result<(), String> {
    line.skip("strace");
    Ok(())
}
