//! Which rows a scan wants.

/// Which rows a scan wants, and in which order. Keys are ordered as bytes.
///
/// ```
/// use tidelog::table::Scan;
/// let scan = Scan::all().prefix(b"sensor/").start(b"sensor/7").limit(100);
/// # let _ = scan;
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    pub(crate) prefix: Vec<u8>,
    pub(crate) start: Option<Vec<u8>>,
    pub(crate) end: Option<Vec<u8>>,
    pub(crate) limit: Option<usize>,
    pub(crate) reverse: bool,
}

impl Scan {
    /// Every row.
    pub fn all() -> Self {
        Scan::default()
    }

    /// Only keys that begin with `prefix`.
    #[must_use]
    pub fn prefix(mut self, prefix: &[u8]) -> Self {
        self.prefix = prefix.to_vec();
        self
    }

    /// Only keys at or behind `key`.
    #[must_use]
    pub fn start(mut self, key: &[u8]) -> Self {
        self.start = Some(key.to_vec());
        self
    }

    /// Only keys before `key`.
    #[must_use]
    pub fn end(mut self, key: &[u8]) -> Self {
        self.end = Some(key.to_vec());
        self
    }

    /// At most this many rows, the first in the scan's order.
    #[must_use]
    pub fn limit(mut self, rows: usize) -> Self {
        self.limit = Some(rows);
        self
    }

    /// Whether it goes from the last key to the first.
    #[must_use]
    pub fn reverse(mut self, reverse: bool) -> Self {
        self.reverse = reverse;
        self
    }

    /// First key, and the key behind the last, if there is one.
    pub(super) fn bounds(&self) -> (Vec<u8>, Option<Vec<u8>>) {
        let start = self.start.as_deref().unwrap_or_default().max(&self.prefix).to_vec();
        let mut after = self.prefix.clone();
        while after.pop_if(|last| *last == u8::MAX).is_some() {}
        let behind_prefix = after.last_mut().map(|last| *last += 1).map(|()| after);
        let end = match (self.end.clone(), behind_prefix) {
            (Some(end), Some(behind)) => Some(end.min(behind)),
            (end, behind) => end.or(behind),
        };
        (start, end)
    }
}
