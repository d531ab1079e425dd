//! Plans: which constraints of a query a table takes, written as the text that SQLite hands on
//! from planning to reading and shows in `EXPLAIN QUERY PLAN`.
//!
//! ```text
//! plan = "all" | term {", " term} , [", desc"]        term = "key=?" | "key prefix=?" | "ts>=?" | …
//! ```
//!
//! Called by `vtab`, for both tables. Invariant: a plan never says that a constraint needs no
//! further check. SQLite holds every row against the whole WHERE clause, so what is read may be
//! too much and must never be too little.

/// A column that constraints are taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    Key,
    Offset,
    Ts,
}

/// How a column is held against a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Test {
    Eq,
    Gt,
    Ge,
    Lt,
    Le,
    Glob,
    Like,
}

impl Test {
    pub(super) fn is_pattern(self) -> bool {
        matches!(self, Test::Glob | Test::Like)
    }
}

/// One constraint whose value is known when reading starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Term {
    pub(super) column: Column,
    pub(super) test: Test,
}

/// A constraint that SQLite offers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offered {
    /// Its place among those of the query.
    pub(super) index: usize,
    /// The column's number; -1 for the row's number.
    pub(super) column: i32,
    pub(super) test: Test,
}

/// How a table is going to be read.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Plan {
    pub(super) terms: Vec<Term>,
    /// The offered constraint behind each of the terms.
    pub(super) taken: Vec<usize>,
    pub(super) reverse: bool,
    /// Whether the rows come in the order asked for.
    pub(super) ordered: bool,
    /// Whether at most one row comes.
    pub(super) unique: bool,
    /// About how many rows come, and how many are looked at.
    pub(super) rows: f64,
    pub(super) cost: f64,
}

const NAMES: [(&str, Column); 3] =
    [("key", Column::Key), ("offset", Column::Offset), ("ts", Column::Ts)];

/// Longer ones first: `>=?` ends as `=?` does.
const TESTS: [(&str, Test); 7] = [
    (" like-prefix=?", Test::Like),
    (" prefix=?", Test::Glob),
    (">=?", Test::Ge),
    ("<=?", Test::Le),
    (">?", Test::Gt),
    ("<?", Test::Lt),
    ("=?", Test::Eq),
];

impl Plan {
    /// Takes a constraint.
    pub(super) fn take(&mut self, column: Column, offered: &Offered) {
        self.terms.push(Term { column, test: offered.test });
        self.taken.push(offered.index);
    }

    /// Whether a constraint on `column` of one of these kinds is taken.
    pub(super) fn has(&self, column: Column, tests: &[Test]) -> bool {
        self.terms.iter().any(|term| term.column == column && tests.contains(&term.test))
    }

    /// Which share of the rows the bounds on `column` are guessed to leave.
    pub(super) fn share(&self, column: Column) -> f64 {
        let low = self.has(column, &[Test::Gt, Test::Ge]);
        let high = self.has(column, &[Test::Lt, Test::Le]);
        match (low, high) {
            _ if self.has(column, &[Test::Glob]) => 0.05,
            (true, true) => 0.1,
            (true, false) | (false, true) => 0.4,
            _ if self.has(column, &[Test::Like]) => 0.5,
            (false, false) => 1.0,
        }
    }

    /// The plan as text.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for term in &self.terms {
            let name = NAMES.iter().find(|(_, column)| *column == term.column);
            let test = TESTS.iter().find(|(_, test)| *test == term.test);
            if !text.is_empty() {
                text.push_str(", ");
            }
            text.push_str(name.map_or("", |(name, _)| name));
            text.push_str(test.map_or("", |(test, _)| test));
        }
        if text.is_empty() {
            text.push_str("all");
        }
        if self.reverse {
            text.push_str(", desc");
        }
        text
    }

    /// Reads the text again: the terms, and whether to go from the last row to the first.
    pub(super) fn parse(text: &str) -> Option<(Vec<Term>, bool)> {
        let (mut terms, mut reverse) = (Vec::new(), false);
        for part in text.split(", ") {
            match part {
                "all" => {}
                "desc" => reverse = true,
                _ => {
                    let (suffix, test) =
                        *TESTS.iter().find(|(suffix, _)| part.ends_with(suffix))?;
                    let name = part.strip_suffix(suffix)?;
                    let (_, column) = *NAMES.iter().find(|(known, _)| *known == name)?;
                    terms.push(Term { column, test });
                }
            }
        }
        Some((terms, reverse))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_reads_back_as_it_is_written() {
        for (_, column) in NAMES {
            for (_, test) in TESTS {
                for reverse in [false, true] {
                    let terms = vec![Term { column, test }, Term { column, test: Test::Lt }];
                    let plan = Plan { terms: terms.clone(), reverse, ..Plan::default() };
                    assert_eq!(Plan::parse(&plan.text()), Some((terms, reverse)));
                }
            }
        }
        assert_eq!(Plan::default().text(), "all");
        assert_eq!(Plan::parse("all, desc"), Some((vec![], true)));
        assert_eq!(Plan::parse("nonsense"), None);
    }
}
