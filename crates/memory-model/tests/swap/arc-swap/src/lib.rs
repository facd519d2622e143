// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The part of `arc-swap` that `memory-model` uses, as slow and as plain as can
//! be, and with a scheduling point of `shuttle` before each step that another
//! thread can see.
//!
//! It stands for `arc-swap` as that is documented: a store takes effect at one
//! point, and a load returns the value of the latest store before it. Whether
//! `arc-swap` keeps to that is not tested here.

use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Lets the scheduler go on with any other thread.
pub fn scheduling_point() {
    // During a panic the execution is over already.
    if !std::thread::panicking() {
        shuttle::thread::sleep(Duration::ZERO);
    }
}

/// A shared value that is replaced as a whole.
#[derive(Debug)]
pub struct ArcSwap<T> {
    current: Mutex<Arc<T>>,
}

impl<T> ArcSwap<T> {
    /// With this value first.
    pub fn new(value: Arc<T>) -> Self {
        Self {
            current: Mutex::new(value),
        }
    }

    /// The value as it is now.
    pub fn load(&self) -> Guard<Arc<T>> {
        Guard(self.load_full())
    }

    /// The value as it is now.
    pub fn load_full(&self) -> Arc<T> {
        scheduling_point();
        self.current().clone()
    }

    /// Replaces the value.
    pub fn store(&self, value: Arc<T>) {
        scheduling_point();
        let old = std::mem::replace(&mut *self.current(), value);
        // Not under the lock: what it owns may look at the value.
        drop(old);
    }

    /// No thread is interrupted while it has the lock.
    fn current(&self) -> MutexGuard<'_, Arc<T>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A value that was loaded.
#[derive(Debug)]
pub struct Guard<T>(T);

impl<T> Deref for Guard<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// Keeps the value that it has seen, and loads another only if there is one.
#[derive(Debug)]
pub struct Cache<A, T> {
    shared: A,
    cached: T,
}

impl<T, A: Deref<Target = ArcSwap<T>>> Cache<A, Arc<T>> {
    /// A cache of `shared`.
    pub fn new(shared: A) -> Self {
        let cached = shared.load_full();
        Self { shared, cached }
    }

    /// The value as it is now.
    pub fn load(&mut self) -> &Arc<T> {
        scheduling_point();
        if !Arc::ptr_eq(&self.cached, &self.shared.current()) {
            // There may be yet another by now.
            self.cached = self.shared.load_full();
        }
        &self.cached
    }
}
