// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Keeps the panics of listeners until a conversion is complete.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// The first panic of a listener. It continues when the pages, their record and the other
/// listeners agree again: otherwise a page could be private while a device reaches it.
#[derive(Default)]
pub(super) struct Panics(Option<Box<dyn Any + Send>>);

impl Panics {
    /// Calls `step`, which leaves its state as valid as an error would. `None` if it
    /// panicked.
    pub(super) fn catch<R>(&mut self, step: impl FnOnce() -> R) -> Option<R> {
        match catch_unwind(AssertUnwindSafe(step)) {
            Ok(result) => Some(result),
            Err(panic) => {
                self.0.get_or_insert(panic);
                None
            }
        }
    }

    /// Continues the panic, if there was one.
    pub(super) fn resume(self) {
        if let Some(panic) = self.0 {
            resume_unwind(panic);
        }
    }
}
