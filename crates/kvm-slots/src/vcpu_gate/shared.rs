// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The state that all clones of a gate and its vCPUs share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::entry::VcpuEntry;
use super::holds::{Admission, Holds};
use super::signal::ExitSignal;

/// A gate. Where both are locked, this one is locked before a [`VcpuEntry`].
#[derive(Debug)]
pub(super) struct Shared {
    signal: ExitSignal,
    /// Whether `holds` is anything but open, for vCPUs to see without its lock.
    /// Written with `state` locked.
    closed: AtomicBool,
    state: Mutex<State>,
    /// Wakes the vCPUs that wait to enter.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    holds: Holds,
    /// Copied on write while a thread iterates over it.
    entries: Entries,
}

type Entries = Arc<Vec<Arc<VcpuEntry>>>;

/// The reason why a vCPU no longer waits to enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waited {
    Open,
    Kicked,
    Stopped,
}

impl Shared {
    pub(super) fn new(signal: ExitSignal) -> Self {
        Self {
            signal,
            closed: AtomicBool::new(false),
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    pub(super) fn signal(&self) -> ExitSignal {
        self.signal
    }

    /// Whether vCPUs must not enter. The caller has its own entry locked, which
    /// orders this after all that a holder did before it locked that entry.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    pub(super) fn insert(&self, entry: Arc<VcpuEntry>) {
        Arc::make_mut(&mut self.lock().entries).push(entry);
    }

    pub(super) fn remove(&self, entry: &Arc<VcpuEntry>) {
        let mut state = self.lock();
        let found = state.entries.iter().position(|e| Arc::ptr_eq(e, entry));
        if let Some(index) = found {
            Arc::make_mut(&mut state.entries).swap_remove(index);
        }
    }

    /// Adds a hold, and returns once no vCPU is in the guest.
    pub(super) fn hold(&self) {
        // An entry that is inserted later sees the gate closed.
        let entries = self.change(Holds::add);
        for entry in entries.iter() {
            entry.request_exit(self.signal);
        }
        for entry in entries.iter() {
            entry.wait_until_left();
        }
    }

    /// Ends a hold.
    pub(super) fn release(&self) {
        self.change(Holds::remove);
    }

    /// Makes all vCPUs leave the guest permanently.
    pub(super) fn stop(&self) {
        for entry in self.change(Holds::stop).iter() {
            entry.request_exit(self.signal);
        }
    }

    /// All vCPUs of the gate.
    pub(super) fn entries(&self) -> Entries {
        Arc::clone(&self.lock().entries)
    }

    /// Waits while the gate is held, unless `kicked`.
    pub(super) fn wait_until_open(&self, kicked: impl Fn() -> bool) -> Waited {
        let mut state = self.lock();
        loop {
            match state.holds.admission() {
                Admission::Open => return Waited::Open,
                Admission::Stopped => return Waited::Stopped,
                Admission::Held if kicked() => return Waited::Kicked,
                Admission::Held => {
                    let woken = self.changed.wait(state);
                    state = woken.unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// Wakes the vCPUs that wait to enter, so that they check for a kick. A vCPU
    /// between its check and its wait has the lock, so this comes after.
    pub(super) fn wake_waiting(&self) {
        let _state = self.lock();
        self.changed.notify_all();
    }

    fn change(&self, change: impl FnOnce(&mut Holds)) -> Entries {
        let mut state = self.lock();
        change(&mut state.holds);
        let admission = state.holds.admission();
        self.closed
            .store(admission != Admission::Open, Ordering::Relaxed);
        if admission != Admission::Held {
            self.changed.notify_all();
        }
        Arc::clone(&state.entries)
    }

    /// A panic elsewhere cannot have left this half changed.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
