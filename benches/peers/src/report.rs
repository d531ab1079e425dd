//! The results: a line of JSON per measurement as it comes, a table per row at its end, and what
//! became of the targets.
//!
//! Only ratios taken in one interleaved round count on a noisy machine: figures that share a
//! `set` were measured right after one another, and a ratio is the median over the sets of the
//! ratios within each. Round 0 is written and not used.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::bare;
use crate::measure::{Figures, Metric, Spread};
use crate::peers::{AS_IT_COMES, TIDELOG};
use crate::tables::HASH;
use crate::targets::{self, Against, Target};

/// Cores used by others from which on figures are worth little.
const DISTURBING_CORES: f64 = 0.2;

/// Collects and writes.
pub struct Report {
    out: Option<File>,
    /// The contestants, in the order of the tables.
    order: Vec<&'static str>,
    measurements: Vec<Measurement>,
    /// Cores that others used during a row.
    elsewhere: Vec<(&'static str, f64)>,
    sets: u32,
    missed: u32,
}

struct Measurement {
    row: &'static str,
    contestant: &'static str,
    set: u32,
    figures: Figures,
}

/// Which figures were measured beside each other.
#[derive(Clone, Copy)]
pub struct Set {
    number: u32,
    /// 0 is the one that warms up.
    pub round: u32,
}

impl Report {
    /// Lists contestants in `order`; writes to `out` as well, when given.
    pub fn new(order: Vec<&'static str>, out: Option<&Path>) -> Result<Self> {
        let out = out
            .map(|path| File::create(path).with_context(|| format!("create {}", path.display())))
            .transpose()?;
        let (measurements, elsewhere) = (Vec::new(), Vec::new());
        Ok(Report { out, order, measurements, elsewhere, sets: 0, missed: 0 })
    }

    /// Notes where and how this run takes place.
    pub fn begin(&mut self, about: Value) -> Result<()> {
        eprintln!("{about}");
        self.line(about)
    }

    /// A new set of figures, measured beside each other in round `round`.
    pub fn next_set(&mut self, round: u32) -> Set {
        self.sets += 1;
        Set { number: self.sets, round }
    }

    /// Notes a measurement.
    pub fn add(
        &mut self,
        row: &'static str,
        contestant: &'static str,
        set: Set,
        figures: Figures,
    ) -> Result<()> {
        let mut line = Map::new();
        line.insert("kind".into(), "measurement".into());
        line.insert("row".into(), row.into());
        line.insert("contestant".into(), contestant.into());
        line.insert("round".into(), set.round.into());
        line.insert("set".into(), set.number.into());
        for metric in Metric::ALL {
            if let Some(value) = metric.of(&figures) {
                line.insert(metric.key().into(), json!(round3(value)));
            }
        }
        self.line(Value::Object(line))?;
        if set.round > 0 {
            self.measurements.push(Measurement { row, contestant, set: set.number, figures });
        }
        Ok(())
    }

    /// Notes that a contestant failed at a row.
    pub fn failed(&mut self, row: &str, contestant: &str, error: &anyhow::Error) -> Result<()> {
        eprintln!("{row}: {contestant} is out: {error:#}");
        let error = format!("{error:#}");
        self.line(json!({"kind": "failed", "row": row, "contestant": contestant, "error": error}))
    }

    /// Notes that others used `cores` while `row` was measured.
    pub fn disturbed(&mut self, row: &'static str, cores: f64) {
        self.elsewhere.push((row, cores));
    }

    /// Prints the table of `row` and whether its targets are reached.
    pub fn end_row(&mut self, row: &'static str, metric: Metric) -> Result<()> {
        let mut names: Vec<&'static str> = Vec::new();
        for measurement in self.measurements.iter().filter(|m| m.row == row) {
            if !names.contains(&measurement.contestant) {
                names.push(measurement.contestant);
            }
        }
        if names.is_empty() {
            return Ok(());
        }
        names.sort_by_key(|name| self.order.iter().position(|n| n == name).unwrap_or(usize::MAX));
        println!("\n{row}");
        let disturbances = self.elsewhere.iter().filter(|(of, _)| *of == row);
        let elsewhere = disturbances.map(|(_, cores)| *cores).fold(0.0, f64::max);
        if elsewhere > DISTURBING_CORES {
            println!("  others used {elsewhere:.1} cores meanwhile: do not trust these figures");
        }
        println!(
            "  {:<21} {:>11} {:>21} {:>9} {:>9} {:>10} {:>9} {:>8} {:>8}",
            metric.key(),
            "median",
            "min – max",
            "÷ bare",
            "p50 µs",
            "p99 µs",
            "p99.9 µs",
            "CPU µs",
            "tide ÷"
        );
        let mut contestants = Map::new();
        for name in names.iter().copied() {
            let Some(spread) = self.spread(row, name, metric) else { continue };
            let ratio = |of, to| {
                self.ratio(row, metric, of, to).map_or("".into(), |ratio| format!("{ratio:.2}"))
            };
            let other = |metric| {
                self.spread(row, name, metric).map_or("".into(), |spread| human(spread.median))
            };
            println!(
                "  {name:<21} {:>11} {:>21} {:>9} {:>9} {:>10} {:>9} {:>8} {:>8}",
                human(spread.median),
                format!("{} – {}", human(spread.min), human(spread.max)),
                ratio(name, bare::NAME),
                other(Metric::P50Us),
                other(Metric::P99Us),
                other(Metric::P999Us),
                other(Metric::CpuUs),
                if name == TIDELOG { String::new() } else { ratio(TIDELOG, name) },
            );
            contestants.insert(name.into(), self.summary(row, name));
        }
        self.print_more(row, metric, &names);
        let targets = self.targets(row, &names);
        self.line(json!({
            "kind": "summary",
            "row": row,
            "cores_used_elsewhere": round3(elsewhere),
            "contestants": contestants,
            "targets": targets,
        }))
    }

    /// How many targets were missed.
    pub fn missed(&self) -> u32 {
        self.missed
    }

    /// Prints medians of what the table of every row has no column for.
    fn print_more(&self, row: &str, shown: Metric, names: &[&'static str]) {
        let with_columns = [shown, Metric::P50Us, Metric::P99Us, Metric::P999Us, Metric::CpuUs];
        let median = |name, metric| self.spread(row, name, metric).map(|spread| spread.median);
        for metric in Metric::ALL.into_iter().filter(|metric| !with_columns.contains(metric)) {
            let of = |name: &&'static str| Some(format!("{name} {}", human(median(name, metric)?)));
            let medians: Vec<_> = names.iter().filter_map(of).collect();
            if !medians.is_empty() {
                println!("  {}: {}", metric.key(), medians.join("; "));
            }
        }
    }

    fn summary(&self, row: &str, name: &str) -> Value {
        let mut of = Map::new();
        for metric in Metric::ALL {
            if let Some(Spread { median, min, max }) = self.spread(row, name, metric) {
                let mut about = json!({
                    "median": round3(median), "min": round3(min), "max": round3(max),
                });
                for (key, other) in [("vs_bare", bare::NAME), ("tidelog_vs_this", name)] {
                    let subject = if key == "vs_bare" { name } else { TIDELOG };
                    if subject != other
                        && let Some(ratio) = self.ratio(row, metric, subject, other)
                    {
                        about[key] = json!(round3(ratio));
                    }
                }
                of.insert(metric.key().into(), about);
            }
        }
        Value::Object(of)
    }

    fn targets(&mut self, row: &str, names: &[&'static str]) -> Vec<Value> {
        let mut found = Vec::new();
        for target in targets::all().into_iter().filter(|target| target.row == row) {
            let Some((value, against)) = self.reached(&target, names) else { continue };
            let reached = target.bound.holds(value);
            self.missed += u32::from(!reached);
            println!(
                "  {} {} {}{}: {value:.2}",
                if reached { "reached" } else { "MISSED " },
                target.metric.key(),
                target.bound,
                against.map_or(String::new(), |name| format!(" × {name}")),
            );
            found.push(json!({
                "metric": target.metric.key(),
                "against": against,
                "bound": target.bound.to_string(),
                "value": round3(value),
                "reached": reached,
            }));
        }
        found
    }

    /// The value that `target` bounds, and the name of who it is measured against.
    fn reached(
        &self,
        target: &Target,
        names: &[&'static str],
    ) -> Option<(f64, Option<&'static str>)> {
        let ratio = |to| self.ratio(target.row, target.metric, TIDELOG, to);
        match target.against {
            Against::Itself => {
                let spread = self.spread(target.row, TIDELOG, target.metric)?;
                Some((spread.median, None))
            }
            Against::BestPeer | Against::BestPeerAsItComes => {
                let as_they_come = matches!(target.against, Against::BestPeerAsItComes);
                let has_twin = |name: &str| names.contains(&&*format!("{name}{AS_IT_COMES}"));
                let peers = names.iter().filter(|name| {
                    !([TIDELOG, bare::NAME, HASH].contains(*name) || as_they_come && has_twin(name))
                });
                let ratios = peers.filter_map(|name| Some((ratio(name)?, Some(*name))));
                let rises = target.metric.rises();
                // Against the best peer tidelog looks worst.
                ratios.reduce(|a, b| if (a.0 < b.0) == rises { a } else { b })
            }
            against => {
                let name = against.name()?;
                Some((ratio(name)?, Some(name)))
            }
        }
    }

    fn spread(&self, row: &str, name: &str, metric: Metric) -> Option<Spread> {
        let of = |m: &Measurement| {
            (m.row == row && m.contestant == name).then(|| metric.of(&m.figures)).flatten()
        };
        Spread::of(self.measurements.iter().filter_map(of).collect())
    }

    /// Median over the sets of `of`'s figure divided by `to`'s.
    fn ratio(&self, row: &str, metric: Metric, of: &str, to: &str) -> Option<f64> {
        let mut ratios = Vec::new();
        for a in self.measurements.iter().filter(|m| m.row == row && m.contestant == of) {
            let b = self
                .measurements
                .iter()
                .find(|m| m.row == row && m.set == a.set && m.contestant == to);
            if let Some(b) = b
                && let (Some(a), Some(b)) = (metric.of(&a.figures), metric.of(&b.figures))
            {
                ratios.push(a / b);
            }
        }
        Spread::of(ratios).map(|spread| spread.median)
    }

    fn line(&mut self, value: Value) -> Result<()> {
        if let Some(out) = &mut self.out {
            writeln!(out, "{value}")?;
        }
        Ok(())
    }
}

fn round3(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// Three or four digits and a unit.
fn human(value: f64) -> String {
    match value {
        v if v >= 1e7 => format!("{:.1} M", v / 1e6),
        v if v >= 1e6 => format!("{:.2} M", v / 1e6),
        v if v >= 1e4 => format!("{:.1} k", v / 1e3),
        v if v >= 1e3 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(records_per_s: f64) -> Figures {
        Figures { records_per_s: Some(records_per_s), ..Figures::default() }
    }

    #[test]
    fn ratios_are_taken_within_sets_and_the_first_round_is_left_out() -> Result<()> {
        let mut report = Report::new(Vec::new(), None)?;
        for (round, a, b) in [(0, 100.0, 1.0), (1, 2.0, 1.0), (2, 30.0, 10.0), (3, 4.0, 1.0)] {
            let set = report.next_set(round);
            report.add("row", TIDELOG, set, rate(a))?;
            report.add("row", "slow", set, rate(b / 2.0))?;
            report.add("row", "fast", set, rate(b))?;
        }
        assert_eq!(report.ratio("row", Metric::RecordsPerS, TIDELOG, "fast"), Some(3.0));
        let target = Target {
            row: "row",
            metric: Metric::RecordsPerS,
            against: Against::BestPeer,
            bound: targets::Bound::AtLeast(3.5),
        };
        let found = report.reached(&target, &[TIDELOG, "slow", "fast"]);
        assert_eq!(found, Some((3.0, Some("fast"))));

        // A tuned peer with a twin does not count where peers do as they come.
        let set = report.next_set(1);
        report.add("row", TIDELOG, set, rate(8.0))?;
        report.add("row", "fast-as-it-comes", set, rate(2.0))?;
        let target = Target { against: Against::BestPeerAsItComes, ..target };
        let found = report.reached(&target, &[TIDELOG, "fast", "fast-as-it-comes"]);
        assert_eq!(found, Some((4.0, Some("fast-as-it-comes"))));
        Ok(())
    }
}
