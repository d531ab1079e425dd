//! What a statement may do: read. SQLite asks before it compiles each step of one.

use std::sync::Arc;

use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

use super::State;

/// Pragmas that tell and change nothing.
const PRAGMAS: [&str; 8] = [
    "table_info",
    "table_xinfo",
    "table_list",
    "function_list",
    "pragma_list",
    "module_list",
    "compile_options",
    "collation_list",
];

/// Functions that reach beyond the connection.
const FUNCTIONS: [&str; 2] = ["load_extension", "fts3_tokenizer"];

/// What SQLite asks, and is told; what was refused is noted for the error.
pub(super) fn authorizer(
    state: Arc<State>,
) -> impl for<'r> FnMut(AuthContext<'r>) -> Authorization + Send + 'static {
    move |context| match refused(&context.action) {
        None => Authorization::Allow,
        Some(what) => {
            state.refuse(what);
            Authorization::Deny
        }
    }
}

/// What of a statement is more than reading.
fn refused(action: &AuthAction<'_>) -> Option<String> {
    let named = |list: &[&str], name: &str| list.iter().any(|n| n.eq_ignore_ascii_case(name));
    Some(match action {
        AuthAction::Select | AuthAction::Read { .. } | AuthAction::Recursive => return None,
        AuthAction::Function { function_name } if !named(&FUNCTIONS, function_name) => {
            return None;
        }
        AuthAction::Function { function_name } => format!("the function {function_name}"),
        AuthAction::Pragma { pragma_name, .. } if named(&PRAGMAS, pragma_name) => return None,
        AuthAction::Pragma { pragma_name, .. } => format!("PRAGMA {pragma_name}"),
        AuthAction::Insert { table_name } => format!("an INSERT or CREATE (into {table_name})"),
        AuthAction::Update { table_name, .. } => format!("an UPDATE of {table_name}"),
        AuthAction::Delete { table_name } => format!("a DELETE or DROP (from {table_name})"),
        AuthAction::Attach { .. } => "ATTACH".into(),
        AuthAction::Detach { .. } => "DETACH".into(),
        AuthAction::Transaction { .. } | AuthAction::Savepoint { .. } => "a transaction".into(),
        AuthAction::AlterTable { .. } => "ALTER TABLE".into(),
        AuthAction::Reindex { .. } | AuthAction::Analyze { .. } => "REINDEX or ANALYZE".into(),
        _ => "CREATE or DROP".into(),
    })
}
