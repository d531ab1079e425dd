//! A connection whose answers to creates go astray, on top of a store that is real.
//!
//! The store does what it was asked; only what the asker hears differs, or when it is done. Each loss
//! is one that object stores are known for, and `sequence` has to find the truth by reading back.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tidelog::ship::archive::{Create, ObjectName, Prefix, Store};
use tidelog::{Error, Kind, Result};

/// How long a create that was given up on may still be under way.
const LATE: Duration = Duration::from_millis(3);

/// What becomes of the answer to a create.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// It was done, and nobody says so.
    Reply,
    /// It was done, sent once more on its way, and refused because of itself.
    OwnRefusal,
    /// It never arrived.
    Request,
    /// It was given up on and arrives all the same, a little later.
    Late,
}

impl Loss {
    /// Every kind.
    pub const ALL: [Loss; 4] = [Loss::Reply, Loss::OwnRefusal, Loss::Request, Loss::Late];
}

/// A connection that loses as it is told.
#[derive(Debug)]
pub struct Lossy {
    store: Arc<dyn Store>,
    next: Mutex<Option<Loss>>,
    late: Mutex<Vec<JoinHandle<()>>>,
}

impl Lossy {
    /// One that loses nothing yet.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Lossy { store, next: Mutex::default(), late: Mutex::default() }
    }

    /// What becomes of the next create.
    pub fn lose(&self, loss: Option<Loss>) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = loss;
    }

    /// Waits for what is under way.
    pub fn settle(&self) {
        let late: Vec<_> =
            self.late.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect();
        for create in late {
            let _ = create.join();
        }
    }

    fn create_later(&self, name: &ObjectName, bytes: &[u8]) {
        let (store, name, bytes) = (Arc::clone(&self.store), *name, bytes.to_vec());
        let create = std::thread::spawn(move || {
            std::thread::park_timeout(LATE);
            let _ = store.create(&name, &bytes);
        });
        self.late.lock().unwrap_or_else(PoisonError::into_inner).push(create);
    }
}

impl Drop for Lossy {
    fn drop(&mut self) {
        self.settle();
    }
}

fn lost(what: &str) -> Create {
    Create::Unknown(Error::new(Kind::Io, format!("{what} was lost, as it was told to be")))
}

impl Store for Lossy {
    fn place(&self) -> String {
        self.store.place()
    }

    fn get_range(&self, name: &ObjectName, from: u64, len: usize) -> Result<Option<Vec<u8>>> {
        self.store.get_range(name, from, len)
    }

    fn put(&self, name: &ObjectName, bytes: &[u8]) -> Result<()> {
        self.store.put(name, bytes)
    }

    fn create(&self, name: &ObjectName, bytes: &[u8]) -> Create {
        let loss = self.next.lock().unwrap_or_else(PoisonError::into_inner).take();
        match loss {
            None => self.store.create(name, bytes),
            Some(Loss::Reply) => {
                let _ = self.store.create(name, bytes);
                lost("the answer")
            }
            Some(Loss::OwnRefusal) => match self.store.create(name, bytes) {
                Create::Created => Create::Exists,
                other => other,
            },
            Some(Loss::Request) => lost("the request"),
            Some(Loss::Late) => {
                self.create_later(name, bytes);
                lost("the connection")
            }
        }
    }

    /// Shorter than a real one: the store is near, and rounds are many.
    fn back_off(&self, _: u32) {
        std::thread::park_timeout(LATE);
    }

    fn list(&self, prefix: Prefix) -> Result<Vec<(ObjectName, u64)>> {
        self.store.list(prefix)
    }

    fn delete(&self, name: &ObjectName) -> Result<()> {
        self.store.delete(name)
    }
}
