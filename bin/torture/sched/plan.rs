//! What a seed decides about its round.

use tidelog::fs::sim::{Errno, Fault, OpKind};
use tidelog::{Durability, Preallocate, Visibility};

use crate::dice::Dice;

/// A round, before it runs.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub producers: u16,
    pub tails: u16,
    pub readers: u16,
    pub syncing: bool,
    pub retaining: bool,
    /// Calls of each producer.
    pub calls: u64,
    pub worker: bool,
    pub isolate_groups: bool,
    pub visibility: Visibility,
    /// What single appends wait for.
    pub durability: Durability,
    pub preallocate: Preallocate,
    pub segment_bytes: u64,
    /// Of 256 calls at the seam, so many dawdle.
    pub shaky: u64,
    pub trouble: Trouble,
}

/// What goes wrong in a round.
#[derive(Clone, Debug)]
pub enum Trouble {
    Nothing,
    /// A call fails, or all of its kind from then on.
    Fault(Fault),
    /// The disk fills up, after so many percent of the calls, and has space again a little later.
    Full {
        percent: u64,
        left_bytes: u64,
        micros: u64,
        times: u64,
    },
}

impl Plan {
    pub fn of(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let crowd = dice.pick(&[1, 2, 2, 3, 4, 4, 8, 16]);
        Plan {
            seed,
            producers: crowd,
            tails: dice.pick(&[0, 1, 1, 2, 3]),
            readers: dice.pick(&[0, 0, 1, 2]),
            syncing: dice.chance(1, 3),
            retaining: dice.chance(1, 3),
            calls: 20 + dice.below(1200 / u64::from(crowd)),
            worker: dice.chance(2, 3),
            isolate_groups: dice.chance(1, 8),
            visibility: if dice.chance(1, 4) { Visibility::Written } else { Visibility::Durable },
            durability: dice.pick(&[
                Durability::Durable,
                Durability::Durable,
                Durability::Written,
                Durability::Buffered,
            ]),
            preallocate: dice.pick(&[Preallocate::Auto, Preallocate::Zero, Preallocate::Grow]),
            segment_bytes: dice.pick(&[64 << 10, 64 << 10, 128 << 10, 1 << 20]),
            shaky: dice.pick(&[0, 8, 32, 128]),
            trouble: Trouble::of(&mut dice),
        }
    }
}

impl Trouble {
    fn of(dice: &mut Dice) -> Self {
        match dice.below(8) {
            0..4 => Trouble::Nothing,
            4..6 => {
                let mut fault = Fault::on(dice.pick(&[
                    OpKind::Write,
                    OpKind::Write,
                    OpKind::Sync,
                    OpKind::Sync,
                    OpKind::SyncDir,
                    OpKind::Rename,
                    OpKind::Create,
                    OpKind::SetLen,
                ]));
                if matches!(fault.kind, Some(OpKind::Write | OpKind::Sync)) {
                    fault = fault.nth(dice.below(200)).at("segments/");
                } else {
                    fault = fault.nth(dice.below(12));
                }
                if dice.chance(1, 2) {
                    fault = fault.sticky();
                }
                if dice.chance(1, 3) {
                    fault = fault.landed();
                }
                Trouble::Fault(fault.error(Errno::Io))
            }
            _ => Trouble::Full {
                percent: dice.below(80),
                left_bytes: dice.below(96 << 10),
                micros: 100 + dice.below(5000),
                times: 1 + dice.below(3),
            },
        }
    }
}
