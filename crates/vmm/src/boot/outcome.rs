// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How a guest ended.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// How a guest ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The guest switched the machine off.
    PowerOff,
    /// The guest's kernel panicked.
    Panic,
    /// The guest reset the machine.
    Reset,
    /// A vCPU cannot go on, in words.
    Fault(String),
    /// The user left, or a signal ended the VMM.
    Left,
}

impl Outcome {
    /// The exit status of `vmm boot`.
    pub fn status(&self) -> u8 {
        match self {
            Self::PowerOff => 0,
            Self::Panic => 1,
            Self::Reset => 3,
            Self::Fault(_) => 4,
            Self::Left => 5,
        }
    }
}

/// Where devices and vCPUs report that the guest has ended. The first report counts.
#[derive(Clone, Debug, Default)]
pub struct End {
    inner: Arc<(Mutex<Option<Outcome>>, Condvar)>,
}

impl End {
    /// Reports the end.
    pub fn report(&self, outcome: Outcome) {
        let mut end = self.inner.0.lock().unwrap_or_else(PoisonError::into_inner);
        end.get_or_insert(outcome);
        self.inner.1.notify_all();
    }

    /// Blocks until the guest has ended.
    pub fn wait(&self) -> Outcome {
        let mut end = self.inner.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match &*end {
                Some(outcome) => return outcome.clone(),
                None => {
                    end = (self.inner.1.wait(end)).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// Whether the guest has ended.
    pub fn is_over(&self) -> bool {
        let end = self.inner.0.lock().unwrap_or_else(PoisonError::into_inner);
        end.is_some()
    }
}
