//! The ceiling: a hash map on one thread. Nothing is stored, nothing is ordered.

use std::path::Path;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Result, bail};
use hashbrown::HashMap;

use super::{
    Contestant, Key, Load, Reader, RowFile, Setup, Store, Tally, VALUE_BYTES, by_batch, stamp,
};

pub(super) struct Hash;

pub const NAME: &str = "hash";

impl Contestant for Hash {
    fn name(&self) -> &'static str {
        NAME
    }

    fn persists(&self) -> bool {
        false
    }

    fn open(&self, setup: &Setup<'_>) -> Result<Box<dyn Store>> {
        if !setup.fresh {
            bail!("nothing was stored");
        }
        Ok(Box::new(Rows(RwLock::new((HashMap::new(), 0)))))
    }
}

/// The rows and the offset behind the last upsert.
struct Rows(RwLock<(HashMap<Key, [u8; VALUE_BYTES]>, u64)>);

impl Store for Rows {
    fn upserts(&self, load: &Load, each: &mut dyn FnMut(Duration)) -> Result<()> {
        by_batch(load, each, |batch| {
            let mut held = self.0.write().unwrap_or_else(PoisonError::into_inner);
            let (rows, applied) = &mut *held;
            *applied = batch.end;
            for n in batch {
                let (key, value) = load.upsert(n);
                rows.insert(key, value);
            }
            Ok(())
        })
    }

    /// Copies all rows while upserts wait, the only way it has.
    fn snapshot(&self, to: &Path) -> Result<()> {
        let rows = self.0.read().unwrap_or_else(PoisonError::into_inner).0.clone();
        let mut file = RowFile::create(to)?;
        rows.iter().try_for_each(|(key, value)| file.push(key, value))?;
        file.finish()
    }

    fn reader(&self) -> Result<Box<dyn Reader + '_>> {
        Ok(Box::new(Read(self.0.read().unwrap_or_else(PoisonError::into_inner))))
    }
}

struct Read<'a>(std::sync::RwLockReadGuard<'a, (HashMap<Key, [u8; VALUE_BYTES]>, u64)>);

impl Reader for Read<'_> {
    fn get(&mut self, key: &Key) -> Result<Option<u64>> {
        Ok(self.0.0.get(key).map(|value| stamp(value)))
    }

    fn scan(&mut self, tally: &mut Tally<'_>) -> Result<()> {
        self.0.0.iter().for_each(|(key, value)| tally.visit(key, value));
        Ok(())
    }
}
