//! What threads share and wait with: the standard library's, or loom's in models.
//!
//! Used by `staging`, `wake`, `rounds` and `ends`, which take nothing of it from elsewhere. A test
//! build with `--cfg loom` (docs/TESTING.md) replaces it, so that `loom_tests` runs the very code
//! of the log through every order of its steps and every value its loads may see. Otherwise
//! everything here is the standard library's or nothing: the same layout, the same instructions.
//!
//! Invariants:
//! - a model never sleeps in the kernel: `wake` then uses the condition variable it has elsewhere;
//! - memory behind raw pointers is [`Traced`]: loom then knows who touches which part.

#[cfg(not(all(test, loom)))]
pub(crate) use real::*;

#[cfg(all(test, loom))]
pub(crate) use model::*;

/// Waits a moment for a thread that is between two instructions: it needs its processor back at
/// most.
#[inline]
pub(crate) fn pause(spins: &mut u32) {
    *spins += 1;
    if *spins < 200 { spin_loop() } else { yield_now() }
}

#[cfg(not(all(test, loom)))]
mod real {
    pub(crate) use std::hint::spin_loop;
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64};
    #[cfg(not(target_os = "linux"))]
    pub(crate) use std::sync::{Condvar, Mutex};
    pub(crate) use std::thread::yield_now;

    /// Nothing: only models look.
    #[derive(Debug)]
    pub(crate) struct Traced;

    impl Traced {
        #[inline(always)]
        pub(crate) fn new(_bytes: usize) -> Self {
            Traced
        }

        #[inline(always)]
        pub(crate) fn touch(&self, _from: usize, _to: usize) {}

        #[inline(always)]
        pub(crate) fn look(&self, _from: usize, _to: usize) {}
    }
}

#[cfg(all(test, loom))]
mod model {
    use std::sync::atomic::Ordering::{self, SeqCst};

    pub(crate) use loom::hint::spin_loop;
    pub(crate) use loom::sync::{Condvar, Mutex};
    pub(crate) use loom::thread::yield_now;

    use loom::cell::UnsafeCell;
    use loom::sync::atomic::fence;

    // loom treats sequentially consistent accesses as acquire and release alone, which would let a
    // store and a later load of another place change their order. A fence before each such load
    // brings back what the standard promises, and somewhat more: an older store of any kind stays
    // before that load as well.
    macro_rules! atomics {
        ($($name:ident: $value:ty,)*) => {$(
            #[derive(Debug, Default)]
            pub(crate) struct $name(loom::sync::atomic::$name);

            #[allow(dead_code)]
            impl $name {
                #[track_caller]
                pub(crate) fn new(value: $value) -> Self {
                    $name(loom::sync::atomic::$name::new(value))
                }

                #[track_caller]
                pub(crate) fn load(&self, order: Ordering) -> $value {
                    if order == SeqCst {
                        fence(SeqCst);
                    }
                    self.0.load(order)
                }

                #[track_caller]
                pub(crate) fn store(&self, value: $value, order: Ordering) {
                    match order {
                        Ordering::Relaxed => self.0.store(value, order),
                        _ => drop(self.0.swap(value, order)),
                    }
                }

                #[track_caller]
                pub(crate) fn swap(&self, value: $value, order: Ordering) -> $value {
                    self.0.swap(value, order)
                }

                #[track_caller]
                pub(crate) fn fetch_or(&self, value: $value, order: Ordering) -> $value {
                    self.0.fetch_or(value, order)
                }

                #[track_caller]
                pub(crate) fn compare_exchange(
                    &self,
                    old: $value,
                    new: $value,
                    order: Ordering,
                    otherwise: Ordering,
                ) -> Result<$value, $value> {
                    self.0.compare_exchange(old, new, order, otherwise)
                }
            }
        )*};
    }

    atomics! { AtomicBool: bool, AtomicU8: u8, AtomicU32: u32, AtomicU64: u64, }

    macro_rules! counters {
        ($($name:ident: $value:ty,)*) => {$(
            impl $name {
                #[track_caller]
                pub(crate) fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                    self.0.fetch_add(value, order)
                }

                #[allow(dead_code)]
                #[track_caller]
                pub(crate) fn fetch_sub(&self, value: $value, order: Ordering) -> $value {
                    self.0.fetch_sub(value, order)
                }
            }
        )*};
    }

    counters! { AtomicU32: u32, AtomicU64: u64, }

    /// Bytes behind one cell.
    const CELL: usize = 8;

    /// Who touches which part of some memory: loom ends the model when two threads do so without
    /// an order between them.
    #[derive(Debug)]
    pub(crate) struct Traced(Box<[UnsafeCell<()>]>);

    impl Traced {
        pub(crate) fn new(bytes: usize) -> Self {
            Traced((0..bytes / CELL).map(|_| UnsafeCell::new(())).collect())
        }

        /// Somebody may write these bytes.
        #[track_caller]
        pub(crate) fn touch(&self, from: usize, to: usize) {
            for cell in &self.0[from / CELL..to.div_ceil(CELL)] {
                cell.with_mut(|_| ());
            }
        }

        /// Somebody reads these bytes.
        #[track_caller]
        pub(crate) fn look(&self, from: usize, to: usize) {
            for cell in &self.0[from / CELL..to.div_ceil(CELL)] {
                cell.with(|_| ());
            }
        }
    }
}
