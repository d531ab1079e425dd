//! Makes a violation's reproduction as short as can be: the fewest kept changes that still do it.
//!
//! From the last cut to the first: each kept or torn change is lost instead, then each torn one is
//! kept whole, as long as the violation remains. Greedy, so the result is small, not smallest.

use tidelog::fs::sim::{Crash, Fate};

use super::choices::describe;
use super::explore::{Cut, Image, Variant};
use crate::line::Reproduction;

/// A violation, shrunk.
pub fn shrink(variant: &Variant<'_>, image: &Image, vary: u64, found: String) -> Reproduction {
    let mut path = image.path.clone();
    let mut found = found;
    for cut in (0..path.len()).rev() {
        for (i, simpler) in candidates(&path[cut].1) {
            let old = std::mem::replace(&mut path[cut].1[i], simpler);
            match violates(variant, &path, vary) {
                Some(still) => found = still,
                None => path[cut].1[i] = old,
            }
        }
    }
    let image = Image { path, disk: image.disk.clone(), told: image.told.clone() };
    Reproduction { seed: variant.seed, steps: steps(variant, &image), found }
}

fn candidates(fates: &[Fate]) -> Vec<(usize, Fate)> {
    let kept = fates.iter().enumerate().filter(|(_, fate)| **fate != Fate::Lost);
    let torn = fates.iter().enumerate().filter(|(_, fate)| matches!(fate, Fate::Torn(_)));
    kept.map(|(i, _)| (i, Fate::Lost)).chain(torn.map(|(i, _)| (i, Fate::Kept))).collect()
}

/// Goes a path again; what is wrong at its end, if anything is.
fn violates(variant: &Variant<'_>, path: &[Cut], vary: u64) -> Option<String> {
    let mut image = variant.start();
    for (n, fates) in path {
        let (machine, told, ended) = variant.run(&image, *n);
        if ended.is_err() {
            return None;
        }
        let disk = machine.crash(&Crash::Fates(fates.clone()));
        image.path.push((*n, fates.clone()));
        image = Image { disk, told, path: image.path };
    }
    variant.check(&image, vary).0.err()
}

/// The steps to an image, in words.
pub fn steps(variant: &Variant<'_>, to: &Image) -> Vec<String> {
    let mut steps = vec![format!(
        "workload {}, variant {} (--workload {} --variant {} --seed {})",
        variant.workload.name, variant.number, variant.workload.name, variant.number, variant.seed
    )];
    let mut image = variant.start();
    for (n, fates) in &to.path {
        let what = if image.path.is_empty() { "the script" } else { "recovery" };
        let (machine, told, _) = variant.run(&image, *n);
        machine.stop_after(usize::MAX);
        steps.push(format!(
            "power cut after {n} operations of {what}: {}",
            describe(&machine.pending(), fates)
        ));
        let disk = machine.crash(&Crash::Fates(fates.clone()));
        image.path.push((*n, fates.clone()));
        image = Image { disk, told, path: image.path };
    }
    steps.push(format!(
        "acknowledged as durable by then: {} of {} records",
        image.told.durable,
        image.told.line.len()
    ));
    steps
}
