//! What a roll costs those who append durably: the same appends into segments so small that one
//! in 250 appends meets a roll, and into one that never ends.

use anyhow::Result;

use super::Bench;
use super::durable::{Entrant, Work, measure};
use crate::contestant::Game;
use crate::measure::Metric;
use crate::payload::Payloads;
use crate::peers::TIDELOG;

const ROW: &str = "roll/1KiB/1-producer";
const ROLLING_BYTES: u64 = 256 << 10;
const ENDLESS_BYTES: u64 = 4 << 30;
/// Enough appends for a 99.9th percentile.
const SECONDS: f64 = 4.0;
/// Before each measurement: the other log seals and fills ahead in its first quiet moment, which is
/// no part of what this one's rolls cost.
const SETTLE: std::time::Duration = std::time::Duration::from_millis(500);

pub(super) fn run(bench: &Bench) -> Result<()> {
    let game = Game::Durable { batches: false, producers: 1 };
    let playing = bench.playing(game);
    let Some(tidelog) = playing.into_iter().find(|c| c.name() == TIDELOG) else { return Ok(()) };
    let mut entrants = vec![
        Entrant::open(bench, tidelog, TIDELOG, ROLLING_BYTES)?,
        Entrant::open(bench, tidelog, "tidelog, no rolls", ENDLESS_BYTES)?,
    ];
    let payloads = Payloads::new(1024);
    let work = Work { batch: 1, producers: 1, time: bench.seconds(SECONDS), limit_bytes: u64::MAX };
    bench.interleave(
        ROW,
        &mut entrants,
        |entrant| entrant.name,
        |entrant, _| {
            std::thread::sleep(SETTLE);
            measure(entrant, &work, &payloads)
        },
    )?;
    bench.report.borrow_mut().end_row(ROW, Metric::P999Us)
}
