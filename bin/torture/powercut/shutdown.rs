//! Shutting a mounted ext4 down: the one `ioctl` of this programme.
//!
//! Contract: the opcode is `EXT4_IOC_SHUTDOWN`, `_IOR('X', 125, __u32)`, for which the kernel reads
//! one `u32` through the pointer and keeps nothing of it. It changes no memory of this process.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::ioctl::{Opcode, Setter, ioctl, opcode};

const EXT4_IOC_SHUTDOWN: Opcode = opcode::read::<u32>(b'X', 125);

/// What the file system still does before it is gone.
#[derive(Clone, Copy, Debug)]
pub enum Flush {
    /// It writes its journal out.
    Journal = 1,
    /// It writes nothing more.
    Nothing = 2,
}

/// From now on every call to the file system that holds `directory` fails, and nothing that it
/// has not written yet ever is.
pub fn shut_down(directory: &Path, flush: Flush) -> io::Result<()> {
    let directory = File::open(directory)?;
    // SAFETY: the opcode and its `u32` are as the contract above says; the kernel refuses it with
    // ENOTTY where the file system is another one.
    unsafe { ioctl(&directory, Setter::<EXT4_IOC_SHUTDOWN, u32>::new(flush as u32)) }?;
    Ok(())
}
