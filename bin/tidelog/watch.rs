//! `status --watch` on a terminal: the nodes, how their lag went, and what happened, all the while.
//!
//! ```text
//! thread tidelog-look ── what was found, every second ──► Screen ── draw ──► terminal
//!                                              keys ──► q, Esc, Ctrl-C: end
//! ```
//!
//! Invariants:
//! - the terminal is as it was when the verb ends, also after an error or a panic;
//! - a node that does not answer holds up no key: asking has a thread of its own, which ends with
//!   the process;
//! - what nodes say is text from elsewhere: ratatui lets no control character of it through, which a
//!   test holds, and what is kept is bounded.

use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Paragraph, Row, Table};
use ratatui::{DefaultTerminal, Frame};
use serde_json::{Map, Value};

use crate::exit::{Failure, Outcome};
use crate::output::grouped;
use crate::progress;
use crate::status::Found;

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(1);
/// How long a key may wait.
const TICK: Duration = Duration::from_millis(100);
/// Looks that a node's history holds, one column each.
const KEPT: usize = 30;
/// Nodes whose history is kept.
const MOST_NODES: usize = 1000;

/// What is shown.
#[derive(Debug, Default)]
struct Screen {
    place: String,
    found: Found,
    /// Records behind, by node id, oldest first.
    history: BTreeMap<String, VecDeque<u64>>,
    /// Why the last look came to nothing.
    trouble: Option<String>,
}

/// Shows what `look` finds until somebody ends it.
pub(crate) fn run(
    place: String,
    look: impl Fn() -> Result<Found, Failure> + Send + 'static,
) -> Outcome {
    let (send, found) = channel();
    std::thread::Builder::new()
        .name("tidelog-look".into())
        .spawn(move || {
            loop {
                let again = Instant::now() + EVERY;
                let looked = look().map_err(|failure| {
                    failure.message.unwrap_or_else(|| "it does not answer".to_owned())
                });
                if send.send(looked).is_err() {
                    return;
                }
                std::thread::sleep(again.saturating_duration_since(Instant::now()));
            }
        })
        .map_err(|e| Failure::io("start a thread", &e))?;
    // From here on a panic puts the terminal back, too.
    let mut terminal = ratatui::try_init().map_err(|e| Failure::io("set up the terminal", &e))?;
    let shown = show(&mut terminal, Screen { place, ..Screen::default() }, &found);
    ratatui::restore();
    shown
}

fn show(
    terminal: &mut DefaultTerminal,
    mut screen: Screen,
    found: &Receiver<Result<Found, String>>,
) -> Outcome {
    let io = |e: std::io::Error| Failure::io("use the terminal", &e);
    loop {
        loop {
            match found.try_recv() {
                Ok(looked) => screen.take(looked),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    return Err(Failure::no("the thread that asks the node has ended"));
                }
            }
        }
        terminal.draw(|frame| screen.draw(frame)).map_err(io)?;
        if progress::interrupted() {
            return Err(Failure::interrupted());
        }
        if event::poll(TICK).map_err(io)?
            && let Event::Key(key) = event::read().map_err(io)?
            && let Some(end) = ends(&key)
        {
            return end;
        }
    }
}

/// What a key ends it with, if it does.
fn ends(key: &KeyEvent) -> Option<Outcome> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    match key.code {
        // Raw terminals make no signal of it.
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => {
            Some(Err(Failure::interrupted()))
        }
        KeyCode::Char('q') | KeyCode::Esc => Some(Ok(())),
        _ => None,
    }
}

impl Screen {
    fn take(&mut self, looked: Result<Found, String>) {
        match looked {
            Err(trouble) => self.trouble = Some(trouble),
            Ok(found) => {
                let nodes = found.rows.iter().map(|row| text(row, "node"));
                let nodes: Vec<String> = nodes.take(MOST_NODES).collect();
                self.history.retain(|node, _| nodes.contains(node));
                for (node, row) in nodes.into_iter().zip(&found.rows) {
                    let lag = row.get("lag_records").and_then(Value::as_u64).unwrap_or(0);
                    let history = self.history.entry(node).or_default();
                    if history.len() == KEPT {
                        history.pop_front();
                    }
                    history.push_back(lag);
                }
                (self.found, self.trouble) = (found, None);
            }
        }
    }

    fn draw(&self, frame: &mut Frame<'_>) {
        let nodes = u16::try_from(self.found.rows.len()).unwrap_or(u16::MAX).saturating_add(3);
        let remarks = self.remarks();
        let areas = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(nodes.max(4)),
            Constraint::Length(u16::try_from(remarks.len()).unwrap_or(0)),
            Constraint::Min(0),
        ]);
        let [head, table, notes, events] = areas.areas(frame.area());
        let title = format!("{}   {}   q ends", self.place, self.found.time);
        frame.render_widget(Line::styled(title, Style::new().add_modifier(Modifier::BOLD)), head);
        frame.render_widget(self.table(), table);
        frame.render_widget(Paragraph::new(remarks), notes);
        self.draw_events(frame, events);
    }

    /// What is wrong, and what there is to say beside the rows.
    fn remarks(&self) -> Vec<Line<'static>> {
        let trouble = self.trouble.as_ref().map(|trouble| format!("no news: {trouble}"));
        trouble.into_iter().chain(self.found.remarks.clone()).map(Line::raw).collect()
    }

    fn table(&self) -> Table<'_> {
        let bold = Style::new().add_modifier(Modifier::BOLD);
        let rows = self.found.rows.iter().map(|row| {
            let history = self.history.get(&text(row, "node"));
            let cells = [
                text(row, "name"),
                text(row, "role"),
                text(row, "state"),
                text(row, "epoch"),
                text(row, "durable"),
                text(row, "applied"),
                text(row, "lag_records"),
                text(row, "lag_bytes"),
                text(row, "lag_seconds"),
                text(row, "last_contact_seconds"),
                history.map(bars).unwrap_or_default(),
            ];
            let calm = ["leading", "following", "log", "copy", "known"];
            match calm.contains(&&*text(row, "state")) {
                true => Row::new(cells),
                false => Row::new(cells).style(bold),
            }
        });
        let head = [
            "name",
            "role",
            "state",
            "epoch",
            "durable",
            "applied",
            "records",
            "bytes",
            "seconds",
            "contact",
            "behind, lately",
        ];
        let widths = [12, 8, 9, 5, 12, 12, 10, 13, 9, 9].map(Constraint::Length);
        let widths = widths.into_iter().chain([Constraint::Min(14)]);
        Table::new(rows, widths)
            .header(Row::new(head).style(bold))
            .block(Block::bordered().title("nodes"))
    }

    /// The newest that fit, the last one lowest.
    fn draw_events(&self, frame: &mut Frame<'_>, area: Rect) {
        let room = usize::from(area.height.saturating_sub(2));
        let events = &self.found.events;
        let shown = &events[events.len().saturating_sub(room)..];
        let lines = shown.iter().map(|(time, what)| Line::raw(format!("{time}  {what}")));
        let block = Block::bordered().title("events");
        frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()).block(block), area);
    }
}

/// A value as it stands in a cell.
fn text(row: &Map<String, Value>, name: &str) -> String {
    match row.get(name) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => match (number.as_u64(), number.as_f64()) {
            (Some(number), _) => grouped(number),
            (None, Some(seconds)) => format!("{seconds:.1}"),
            _ => number.to_string(),
        },
        Some(other) => other.to_string(),
    }
}

/// Numbers as bars, the highest of them full; nothing behind is a blank.
fn bars(numbers: &VecDeque<u64>) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = numbers.iter().copied().max().unwrap_or(0).max(1);
    let bar = |number: &u64| match number {
        0 => ' ',
        number => {
            let step = u128::from(number - 1) * 8 / u128::from(most);
            BARS[usize::try_from(step).unwrap_or(0).min(7)]
        }
    };
    numbers.iter().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    /// A leader with a follower that catches up and one that has not come back, as a node said it.
    const STATUS: &str = include_str!("../../tests/data/status.json");

    fn drawn(screen: &Screen, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        (0..height).map(line).collect()
    }

    fn status() -> Value {
        serde_json::from_str(STATUS).unwrap()
    }

    #[test]
    fn a_recorded_status_is_drawn_with_the_course_of_its_lag() {
        let mut screen = Screen { place: "http://a:7400".into(), ..Screen::default() };
        for lag in [0, 10, 80, 40] {
            let mut status = status();
            status["nodes"][1]["lag_records"] = lag.into();
            screen.take(Ok(Found::read(&status).unwrap()));
        }
        let lines = drawn(&screen, 150, 20);
        let all = lines.join("\n");
        assert!(lines[0].starts_with("http://a:7400   2026-11-28T15:"), "{all}");
        let line = |what: &str| {
            let found = lines.iter().find(|line| line.contains(what));
            found.unwrap_or_else(|| panic!("no {what} in\n{all}"))
        };
        assert!(line("cedar").contains("following") && line("cedar").contains(" ▁█▄"), "{all}");
        assert!(line("leader").contains("leading"), "{all}");
        assert!(line("birch").contains("away") && line("birch").contains("1,234"), "{all}");
        assert!(line("archive shelf is publishing").contains("lacks 3 records"), "{all}");
        assert!(line("cedar pulls from offset").contains("2026-11-28T15:"), "{all}");
        // A node that is away leaves what was known, and says so; nothing grows for ever.
        screen.take(Err("cannot reach it".into()));
        let all = drawn(&screen, 150, 20).join("\n");
        assert!(all.contains("no news: cannot reach it") && all.contains("cedar"), "{all}");
        for _ in 0..200 {
            screen.take(Ok(Found::read(&status()).unwrap()));
        }
        assert!(screen.history.values().all(|history| history.len() == KEPT));
        assert!(!drawn(&screen, 150, 20).join("\n").contains("no news"));
    }

    #[test]
    fn any_size_and_any_answer_is_drawn() {
        let mut hostile = status();
        hostile["nodes"][1]["name"] = "\u{1b}[2J\u{7}evil\n".into();
        hostile["nodes"][1]["lag_records"] = u64::MAX.into();
        hostile["nodes"][2] = serde_json::json!({});
        hostile["events"] = serde_json::json!([{ "what": "\u{1b}]0;x\u{7}" }, 7]);
        let mut screen = Screen::default();
        for found in [Found::default(), Found::read(&status()).unwrap()] {
            screen.take(Ok(found));
        }
        screen.take(Ok(Found::read(&hostile).unwrap()));
        for (width, height) in [(1, 1), (3, 2), (20, 5), (80, 24), (300, 100)] {
            let all = drawn(&screen, width, height).concat();
            assert!(!all.contains(|c: char| c.is_control()), "{width} x {height}");
        }
        assert!(drawn(&screen, 150, 20).concat().contains("evil"));
        assert!(Found::read(&serde_json::json!({ "nodes": 3 })).is_none());
    }

    #[test]
    fn q_and_ctrl_c_end_it_and_nothing_else_does() {
        let key = |code, modifiers| ends(&KeyEvent::new(code, modifiers));
        let code = |outcome: Option<Outcome>| {
            outcome.map(|outcome| outcome.map_or_else(|failure| failure.code, |()| 0))
        };
        assert_eq!(code(key(KeyCode::Char('q'), KeyModifiers::NONE)), Some(0));
        assert_eq!(code(key(KeyCode::Esc, KeyModifiers::NONE)), Some(0));
        assert_eq!(code(key(KeyCode::Char('c'), KeyModifiers::CONTROL)), Some(130));
        assert_eq!(code(key(KeyCode::Char('c'), KeyModifiers::NONE)), None);
        assert_eq!(code(key(KeyCode::Enter, KeyModifiers::NONE)), None);
    }
}
