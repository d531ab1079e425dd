//! The seam to SQLite: a table of ours as a virtual table of its.
//!
//! One of the few files with `unsafe`: rusqlite passes pointers to our structs to SQLite as
//! pointers to their first field, and asks for that layout by `unsafe` traits. Nothing else here
//! is unsafe. `kv` and `records` say through [`Source`] and [`Walk`], in safe code, what their
//! tables hold.
//!
//! Invariants:
//! - no panic reaches SQLite's frames, through which it must not unwind;
//! - an error of the table or the log is kept in [`State`] as it is, since SQLite carries text.

#![allow(unsafe_code)]

use std::borrow::Cow;
use std::ffi::{CStr, CString, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::vtab::{
    Context, CreateVTab, Filters, IndexConstraintOp, IndexFlags, IndexInfo, Module, VTab,
    VTabConnection, VTabCursor, VTabKind, sqlite3_vtab, sqlite3_vtab_cursor,
};
use rusqlite::{Connection, Error as SqliteError};

use crate::error::{Error, Kind, Result};

use super::State;
use super::plan::{Offered, Plan, Term, Test};

/// A table that can be read by plans.
pub(super) trait Source: Clone + Send + Sync + 'static {
    /// Its columns.
    const SCHEMA: &'static CStr;
    type Walk: Walk;

    /// How to read under these constraints, in this order if it can: columns, and whether
    /// each goes down.
    fn plan(&self, offered: &[Offered], order: &[(i32, bool)]) -> Plan;

    /// A reader that stands nowhere yet.
    fn walk(&self) -> Self::Walk;
}

/// Reads the rows of one plan.
pub(super) trait Walk {
    /// Goes to the first row that `terms` leave, each with its value.
    fn start(&mut self, terms: &[(Term, ValueRef<'_>)], reverse: bool) -> Result<()>;
    fn advance(&mut self) -> Result<()>;
    fn is_done(&self) -> bool;
    fn column(&self, number: i32) -> ValueRef<'_>;
    fn row_number(&self) -> i64;
}

/// Makes `source` the table `name`.
pub(super) fn create<S: Source>(
    connection: &Connection,
    name: &str,
    source: S,
    state: &Arc<State>,
) -> rusqlite::Result<()> {
    let module = const { &Module::<Joined<S>>::read_only_module() };
    let module_name = format!("tidelog_{name}");
    connection.create_module(module_name.as_str(), module, Some((source, Arc::clone(state))))?;
    connection.execute_batch(&format!("CREATE VIRTUAL TABLE {name} USING {module_name}"))
}

/// Runs what SQLite calls: no panic leaves it, and an error is kept as it is.
fn guarded<T>(state: &State, call: impl FnOnce() -> Result<T>) -> rusqlite::Result<T> {
    let outcome = catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| {
        Err(Error::new(Kind::InvalidInput, "reading a table for SQL went wrong inside tidelog")
            .help("please report the query"))
    });
    outcome.map_err(|error| state.keep(error))
}

/// A table as SQLite holds it.
#[repr(C)]
struct Joined<S> {
    /// SQLite's part; first, because SQLite's pointer to it is the pointer to all.
    base: sqlite3_vtab,
    source: S,
    state: Arc<State>,
}

/// A reader as SQLite holds it.
#[repr(C)]
struct Reader<W> {
    /// SQLite's part; first, as above.
    base: sqlite3_vtab_cursor,
    walk: W,
    state: Arc<State>,
}

// SAFETY: the struct is `repr(C)` and its first field is `sqlite3_vtab`, which is what the trait
// asks for.
unsafe impl<'vtab, S: Source> VTab<'vtab> for Joined<S> {
    type Aux = (S, Arc<State>);
    type Cursor = Reader<S::Walk>;

    fn connect(
        _: &mut VTabConnection,
        aux: Option<&Self::Aux>,
        _module: &[u8],
        _database: &[u8],
        _table: &[u8],
        _arguments: &[&[u8]],
    ) -> rusqlite::Result<(Cow<'static, CStr>, Self)> {
        let Some((source, state)) = aux else {
            return Err(SqliteError::ModuleError("expected a table to read from".into()));
        };
        let joined = Joined {
            base: sqlite3_vtab::default(),
            source: source.clone(),
            state: Arc::clone(state),
        };
        Ok((Cow::Owned(CString::from(S::SCHEMA)), joined))
    }

    fn best_index(&self, info: &mut IndexInfo) -> rusqlite::Result<bool> {
        let mut offered = Vec::new();
        for (index, constraint) in info.constraints().enumerate() {
            let Some(test) = test(&constraint.operator()) else { continue };
            // Any other collation compares keys in another way.
            if constraint.is_usable() && info.collation(index).is_ok_and(|name| name == "BINARY") {
                offered.push(Offered { index, column: constraint.column(), test });
            }
        }
        let order: Vec<(i32, bool)> =
            info.order_bys().map(|by| (by.column(), by.is_order_by_desc())).collect();
        let plan = guarded(&self.state, || Ok(self.source.plan(&offered, &order)))?;
        let mut argument = 0;
        for index in &plan.taken {
            argument += 1;
            info.constraint_usage(*index).set_argv_index(argument);
        }
        info.set_idx_num(c_int::from(argument > 0));
        info.set_idx_str(&plan.text());
        info.set_order_by_consumed(plan.ordered);
        if plan.unique {
            info.set_idx_flags(IndexFlags::SQLITE_INDEX_SCAN_UNIQUE);
        }
        info.set_estimated_cost(plan.cost);
        #[expect(clippy::cast_possible_truncation, reason = "saturates, and is a guess")]
        info.set_estimated_rows((plan.rows as i64).max(1));
        Ok(true)
    }

    fn open(&'vtab mut self) -> rusqlite::Result<Self::Cursor> {
        let walk = guarded(&self.state, || Ok(self.source.walk()))?;
        let base = sqlite3_vtab_cursor::default();
        Ok(Reader { base, walk, state: Arc::clone(&self.state) })
    }
}

impl<S: Source> CreateVTab<'_> for Joined<S> {
    const KIND: VTabKind = VTabKind::Default;
}

fn test(operator: &IndexConstraintOp) -> Option<Test> {
    Some(match operator {
        IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_EQ => Test::Eq,
        IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_GT => Test::Gt,
        IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_GE => Test::Ge,
        IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_LT => Test::Lt,
        IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_LE => Test::Le,
        IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_GLOB => Test::Glob,
        IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_LIKE => Test::Like,
        _ => return None,
    })
}

// SAFETY: the struct is `repr(C)` and its first field is `sqlite3_vtab_cursor`, which is what the
// trait asks for.
unsafe impl<W: Walk> VTabCursor for Reader<W> {
    fn filter(
        &mut self,
        _: c_int,
        plan: Option<&str>,
        arguments: &Filters<'_>,
    ) -> rusqlite::Result<()> {
        let Reader { walk, state, .. } = self;
        guarded(state, || {
            let (terms, reverse) = Plan::parse(plan.unwrap_or_default())
                .filter(|(terms, _)| terms.len() == arguments.len())
                .ok_or_else(|| {
                    Error::new(Kind::InvalidInput, format!("expected a plan, found {plan:?}"))
                })?;
            let terms: Vec<(Term, ValueRef<'_>)> =
                terms.into_iter().zip(arguments.iter()).collect();
            walk.start(&terms, reverse)
        })
    }

    fn next(&mut self) -> rusqlite::Result<()> {
        let Reader { walk, state, .. } = self;
        guarded(state, || walk.advance())
    }

    fn eof(&self) -> bool {
        self.walk.is_done()
    }

    fn column(&self, context: &mut Context, number: c_int) -> rusqlite::Result<()> {
        let value = guarded(&self.state, || Ok(self.walk.column(number)))?;
        context.set_result(Borrowed(value))
    }

    fn rowid(&self) -> rusqlite::Result<i64> {
        Ok(self.walk.row_number())
    }
}

/// A value that SQLite copies.
struct Borrowed<'a>(ValueRef<'a>);

impl ToSql for Borrowed<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(self.0))
    }
}
