//! The page of `bench --report`: one HTML file with its plots inside, which asks nobody for anything.
//!
//! Called by `bench`. Invariants:
//! - everything in it comes from what was measured and from this machine; text is escaped;
//! - a plot says its units, and has as many points as a screen shows, however many operations there were.

use std::fmt::Write;

use serde_json::Value;
use tidelog::text::format_bytes;

use super::{Measured, Sample, What, percentile};
use crate::output::grouped;

/// Of a plot, in units of its own.
const WIDTH: f64 = 440.0;
const HEIGHT: f64 = 200.0;
/// Room for the numbers beside it and below.
const LEFT: f64 = 64.0;
const BELOW: f64 = 34.0;
/// Spans of time that a rate is told of.
const SPANS: usize = 60;
/// Points on the line of percentiles.
const POINTS: u32 = 120;

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1b2733; --dim: #66778a; --line: #d5dde5; --back: #fbfcfd; --a: #1769aa; }
@media (prefers-color-scheme: dark) { :root { --ink: #dfe7ee; --dim: #93a4b5; --line: #33414e; --back: #10161c; --a: #6db3ea; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back); max-width: 62em; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.5em; margin-bottom: 0; } h2 { font-size: 1.15em; margin: 2em 0 0; } p { color: var(--dim); margin: .3em 0; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; margin: 1em 0; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3em .6em; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } th { color: var(--dim); font-weight: normal; }
.plots { display: flex; flex-wrap: wrap; gap: 1.5em; } figure { margin: .5em 0; flex: 1 1 24em; } figcaption { color: var(--dim); }
svg { width: 100%; height: auto; } svg text { font-size: 11px; fill: var(--dim); } .grid { stroke: var(--line); } .data { stroke: var(--a); fill: none; stroke-width: 2; }
";

/// The page.
pub(super) fn page(measured: &[Measured]) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\">\n<title>tidelog bench</title>\n<style>{STYLE}</style>\n\
         </head>\n<body>\n<h1>tidelog bench</h1>\n<p>{}</p>\n<p><code>{}</code></p>\n{}",
        escape(&machine()),
        escape(&command()),
        table(measured)
    );
    for one in measured {
        let name = one.what.name();
        page += &format!("<h2>{name}</h2>\n<p>{}</p>\n<div class=\"plots\">\n", meaning(one.what));
        page += &rate(&name, &one.samples);
        page += &latency(&name, &one.samples);
        page += "</div>\n";
    }
    page + "</body>\n</html>\n"
}

fn meaning(what: What) -> &'static str {
    match what {
        What::Append | What::All => "An operation is an append: one record, or a batch.",
        What::Read => {
            "The rate in the table is a scan's. An operation is a read by offset, in no order."
        }
        What::Apply => {
            "An operation is an apply to the table, of one batch or of several small ones."
        }
        What::Ship => {
            "An operation is a step of a follower of the log's directory: copy, verify, sync, apply."
        }
    }
}

/// What was measured where, and when.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "tidelog {} on {cores} cores ({}), Linux {}, {}",
        env!("CARGO_PKG_VERSION"),
        cpu.map_or("unknown", |(_, name)| name.trim()),
        read("/proc/sys/kernel/osrelease").trim(),
        jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC")
    )
}

fn command() -> String {
    let words = std::env::args().skip(1);
    std::iter::once("tidelog".to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}

fn table(measured: &[Measured]) -> String {
    let mut table = String::from(
        "<div class=\"scroll\"><table>\n<tr><th>what</th><th>durability</th><th>value</th><th>batch</th>\
         <th>records</th><th>records/s</th><th>bytes/s</th><th>p50</th><th>p99</th><th>p99.9</th>\
         <th>longest</th></tr>\n",
    );
    for Measured { row, .. } in measured {
        let number = |name: &str| row.get(name).and_then(Value::as_u64).unwrap_or(0);
        let time = |name: &str| row.get(name).and_then(Value::as_f64).map_or("".into(), micros);
        let text = |name: &str| row.get(name).and_then(Value::as_str).unwrap_or_default();
        let cells = [
            text("what").to_owned(),
            text("durability").to_owned(),
            format_bytes(number("value_bytes")),
            grouped(number("batch")),
            grouped(number("records")),
            grouped(number("records_per_s")),
            format!("{}/s", format_bytes(number("bytes_per_s"))),
            time("p50_us"),
            time("p99_us"),
            time("p999_us"),
            time("longest_us"),
        ];
        let cells: String = cells.iter().map(|cell| format!("<td>{}</td>", escape(cell))).collect();
        let _ = writeln!(table, "<tr>{cells}</tr>");
    }
    table + "</table></div>\n"
}

/// Operations a second, over the time that was measured.
fn rate(name: &str, samples: &[Sample]) -> String {
    let end = samples.iter().map(|(at, _)| *at).fold(0.0, f64::max).max(1e-6);
    let spans = SPANS.min(samples.len().max(1));
    let span = end / spans as f64;
    let mut counts = vec![0.0; spans];
    for (at, _) in samples {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
        let i = ((at / span) as usize).min(spans - 1);
        counts[i] += 1.0 / span;
    }
    let most = nice(counts.iter().copied().fold(0.0, f64::max));
    let points: Vec<_> =
        counts.iter().enumerate().map(|(i, rate)| ((i as f64 + 0.5) * span, *rate)).collect();
    let place = |(x, y): (f64, f64)| (x / end, y / most);
    let x: Vec<_> =
        (0..=4).map(|i| (f64::from(i) / 4.0, seconds(end * f64::from(i) / 4.0))).collect();
    let y: Vec<_> =
        (0..=4).map(|i| (f64::from(i) / 4.0, short(most * f64::from(i) / 4.0))).collect();
    plot(
        &format!("{name}: operations per second, over time"),
        points.into_iter().map(place),
        &x,
        &y,
    )
}

/// How long operations took: which share of them was done within which time.
fn latency(name: &str, samples: &[Sample]) -> String {
    let mut sorted: Vec<f64> = samples.iter().map(|(_, micros)| micros.max(0.001)).collect();
    sorted.sort_unstable_by(f64::total_cmp);
    // From the median on, each step to the right leaves out a tenth of what was left.
    let nines = (sorted.len().max(10) as f64).log10().min(6.0);
    let share = |x: f64| 1.0 - 10f64.powf(-(0.301 + x * (nines - 0.301)));
    let value = |p: f64| percentile(&sorted, p).unwrap_or(0.001).log10();
    let (low, high) = (value(0.5).floor(), sorted.last().map_or(0.0, |us| us.log10()).ceil());
    let high = high.max(low + 1.0);
    let points = (0..=POINTS).map(|i| {
        let x = f64::from(i) / f64::from(POINTS);
        (x, (value(share(x)) - low) / (high - low))
    });
    let marks = [
        (0.5, "50%"),
        (0.9, "90%"),
        (0.99, "99%"),
        (0.999, "99.9%"),
        (0.9999, "99.99%"),
        (0.99999, "99.999%"),
    ];
    let x: Vec<_> = marks
        .iter()
        .map(|(p, text)| ((-(1.0f64 - p).log10() - 0.301) / (nines - 0.301), (*text).to_owned()))
        .filter(|(x, _)| *x <= 1.001)
        .collect();
    let mut y = Vec::new();
    let mut power = low;
    while power <= high {
        y.push(((power - low) / (high - low), micros(10f64.powf(power))));
        power += 1.0;
    }
    plot(&format!("{name}: time of an operation, by percentile"), points, &x, &y)
}

/// A line through points between 0 and 1, with marks on both axes.
fn plot(
    title: &str,
    points: impl Iterator<Item = (f64, f64)>,
    x: &[(f64, String)],
    y: &[(f64, String)],
) -> String {
    let (across, down) = (|x: f64| LEFT + x * WIDTH, |y: f64| 8.0 + (1.0 - y) * HEIGHT);
    let mut svg = format!(
        "<figure><figcaption>{title}</figcaption>\n<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{title}\">\n",
        LEFT + WIDTH + 30.0,
        8.0 + HEIGHT + BELOW
    );
    for (at, text) in y {
        let (at, right) = (down(*at), LEFT + WIDTH);
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 6.0,
            at + 4.0,
            escape(text)
        );
    }
    for (at, text) in x {
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            across(*at),
            8.0 + HEIGHT + 20.0,
            escape(text)
        );
    }
    let line: Vec<String> =
        points.map(|(x, y)| format!("{:.1},{:.1}", across(x), down(y.clamp(0.0, 1.0)))).collect();
    let _ = writeln!(svg, "<polyline class=\"data\" points=\"{}\"/>", line.join(" "));
    svg + "</svg></figure>\n"
}

/// The next of 1, 2, 5, 10, 20 … at or above.
fn nice(most: f64) -> f64 {
    let power = 10f64.powf(most.max(1e-9).log10().floor());
    [1.0, 2.0, 5.0, 10.0].iter().map(|by| by * power).find(|nice| *nice >= most).unwrap_or(most)
}

/// A number for an axis.
fn short(number: f64) -> String {
    let (number, unit) = match number {
        n if n >= 1e6 => (n / 1e6, "M"),
        n if n >= 1e3 => (n / 1e3, "k"),
        n => (n, ""),
    };
    let text = format!("{number:.2}");
    format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
}

fn seconds(seconds: f64) -> String {
    match seconds {
        0.0 => "0".to_owned(),
        s if s < 1.0 => micros(s * 1e6),
        s => format!("{} s", short(s)),
    }
}

fn micros(micros: f64) -> String {
    match micros {
        us if us >= 1e6 => format!("{} s", short(us / 1e6)),
        us if us >= 1e3 => format!("{} ms", short(us / 1e3)),
        us => format!("{} µs", short(us)),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_shows_what_few_and_many_operations_took() {
        for count in [0, 1, 7, 20_000] {
            let samples: Vec<Sample> =
                (0..count).map(|i| (f64::from(i) / 1e3, f64::from(i % 100) + 0.5)).collect();
            let measured = Measured { what: What::Append, row: serde_json::Map::new(), samples };
            let page = page(&[measured]);
            assert_eq!(page.matches("<polyline").count(), 2, "{count}");
            assert!(!page.contains("NaN") && !page.contains("inf"), "{count}: {page}");
            // Nobody is asked for anything.
            assert!(!page.contains("http") && !page.contains("<script"), "{count}");
        }
    }

    #[test]
    fn numbers_are_short_and_text_stays_text() {
        assert_eq!(
            (micros(0.25), micros(1500.0), micros(2e6)),
            ("0.25 µs".into(), "1.5 ms".into(), "2 s".into())
        );
        assert_eq!((nice(3.1), nice(0.07), nice(10.0)), (5.0, 0.1, 10.0));
        assert_eq!(short(2_500_000.0), "2.5M");
        assert_eq!(escape("<a&\">"), "&lt;a&amp;&quot;&gt;");
    }
}
