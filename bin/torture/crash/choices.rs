//! Which of the pending changes a power cut keeps: the choices that are tried at one cut.
//!
//! Nothing, everything, all of one log's directory and nothing of another's; then all subsets when few changes are pending, otherwise each one alone
//! lost and alone kept; then torn ones: each written range and each length torn alone among the
//! kept and among the lost, each range without its last sector, and all of them by chance. A choice is a list of fates, one for each
//! pending change.

use std::collections::BTreeSet;
use std::ffi::OsStr;

use tidelog::fs::sim::{Fate, PendingChange, PendingOp};

use super::told::Dice;

/// How many choices are tried.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// All subsets of up to this many pending changes.
    pub subsets: u32,
    /// Chance choices of each kind.
    pub chance: u32,
}

/// The choices for one cut, in the order in which they are tried.
pub fn choices(pending: &[PendingOp], limits: Limits, dice: &mut Dice) -> Vec<Vec<Fate>> {
    let count = pending.len();
    let none = vec![Fate::Lost; count];
    if count == 0 {
        return vec![none];
    }
    let all = vec![Fate::Kept; count];
    let mut choices = vec![none.clone(), all.clone()];
    choices.extend(by_directory(pending));
    if count <= limits.subsets as usize {
        choices.extend((1..(1_u64 << count) - 1).map(|bits| subset(bits, count)));
    } else {
        for i in 0..count {
            choices.push(with(&all, i, Fate::Lost));
            choices.push(with(&none, i, Fate::Kept));
        }
        choices.extend((0..limits.chance).map(|_| subset(dice.roll(), count)));
    }
    for i in (0..count).filter(|&i| tears(&pending[i])) {
        for _ in 0..limits.chance {
            choices.push(with(&all, i, Fate::Torn(dice.roll())));
            choices.push(with(&none, i, Fate::Torn(dice.roll())));
        }
        // What ends a file is there to vouch for the rest, and may be the one thing missing.
        if let PendingChange::Data { sectors: last @ 2..=64, .. } = pending[i].change {
            choices.push(with(&all, i, Fate::Torn(!(1 << (last - 1)))));
        }
    }
    for _ in 0..2 * limits.chance {
        choices.push((0..count).map(|_| any(dice)).collect());
    }
    choices
}

/// Where several logs lie beside each other, as if their power had not gone off at once: of each in turn
/// everything is lost, or everything alone is kept.
fn by_directory(pending: &[PendingOp]) -> Vec<Vec<Fate>> {
    let dirs: BTreeSet<_> = pending.iter().map(directory).collect();
    if dirs.len() < 2 {
        return Vec::new();
    }
    let fates = |lost: &dyn Fn(&PendingOp) -> bool| {
        let fate = |op| if lost(op) { Fate::Lost } else { Fate::Kept };
        pending.iter().map(fate).collect::<Vec<_>>()
    };
    let each = dirs
        .iter()
        .flat_map(|dir| [fates(&|op| directory(op) == *dir), fates(&|op| directory(op) != *dir)]);
    each.collect()
}

/// The log's directory, which lies at the root.
fn directory(op: &PendingOp) -> Option<&OsStr> {
    op.path.iter().nth(1)
}

fn subset(bits: u64, count: usize) -> Vec<Fate> {
    let fate = |i: usize| if bits >> (i % 64) & 1 == 1 { Fate::Kept } else { Fate::Lost };
    (0..count).map(fate).collect()
}

fn with(fates: &[Fate], i: usize, fate: Fate) -> Vec<Fate> {
    let mut fates = fates.to_vec();
    fates[i] = fate;
    fates
}

fn any(dice: &mut Dice) -> Fate {
    match dice.below(3) {
        0 => Fate::Lost,
        1 => Fate::Kept,
        _ => Fate::Torn(dice.roll()),
    }
}

/// Whether a power cut may leave a part of it.
fn tears(op: &PendingOp) -> bool {
    match op.change {
        PendingChange::Data { sectors, .. } => sectors > 1,
        PendingChange::Length { from, to } => to > from + 512,
        _ => false,
    }
}

/// A choice in words: what is kept, and what of it; the rest is lost.
pub fn describe(pending: &[PendingOp], fates: &[Fate]) -> String {
    let kept: Vec<String> = pending
        .iter()
        .zip(fates)
        .filter(|(_, fate)| **fate != Fate::Lost)
        .map(|(op, fate)| {
            let torn = match fate {
                Fate::Torn(bits) => format!(", torn by {bits:#018x}"),
                _ => String::new(),
            };
            format!(
                "operation {}'s {} of {}{torn}",
                op.operation,
                change(&op.change),
                op.path.display()
            )
        })
        .collect();
    match kept.len() {
        0 => format!("all {} pending changes are lost", pending.len()),
        n => format!("of {} pending changes {n} are kept: {}", pending.len(), kept.join("; ")),
    }
}

fn change(change: &PendingChange) -> String {
    match change {
        PendingChange::Data { byte, len, .. } => format!("data {byte}+{len}"),
        PendingChange::Length { from, to } => format!("length {from} to {to}"),
        PendingChange::Create => "name".into(),
        PendingChange::CreateDir => "directory".into(),
        PendingChange::Unlink => "removal".into(),
        PendingChange::Rename { to } => format!("rename to {}", to.display()),
    }
}
