//! What clients were told: all that an oracle may know of a log.

use tidelog::{Entry, Op, Record};

/// A record as it was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub op: Op,
    pub key: Option<Vec<u8>>,
    pub value: Vec<u8>,
    /// `None` while the log was left to stamp it and nobody has read it.
    pub timestamp: Option<i64>,
}

impl Told {
    /// What is given to an append.
    pub fn record(&self) -> Record<'_> {
        Record {
            op: self.op,
            key: self.key.as_deref(),
            value: &self.value,
            timestamp: self.timestamp,
        }
    }

    /// Whether a read gave exactly this record.
    pub fn is(&self, entry: &Entry<'_>) -> bool {
        let record = &entry.record;
        self.op == record.op
            && self.key.as_deref() == record.key
            && self.value == record.value
            && self.timestamp.is_none_or(|timestamp| timestamp == entry.timestamp)
    }
}

/// What a panic said.
pub fn said(panic: &(dyn std::any::Any + Send)) -> String {
    match (panic.downcast_ref::<String>(), panic.downcast_ref::<&str>()) {
        (Some(text), _) => text.clone(),
        (_, Some(text)) => (*text).to_owned(),
        _ => "of another kind".to_owned(),
    }
}
