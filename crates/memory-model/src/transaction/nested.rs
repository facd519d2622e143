// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A part of a transaction that can be undone on its own.

use core::ops::{Deref, DerefMut};

use crate::render::windows::Mark;
use crate::transaction::Transaction;

/// A part of a [`Transaction`], with the same methods and on the same tree.
///
/// On [`commit`](Self::commit), its steps become steps of the outer transaction, and
/// listeners are notified when the outermost transaction is committed. If it is
/// dropped, only its own steps are undone. Forgetting it ([`core::mem::forget`])
/// commits it.
///
/// ```
/// use memory_model::{MemoryModel, Region, Transaction, TreeError};
///
/// /// Adds two BARs, or none.
/// fn plug(t: &mut Transaction<'_, ()>, sizes: [u128; 2]) -> Result<(), TreeError> {
///     let mut both = t.nested();
///     for size in sizes {
///         both.add(Region::mmio("bar", size))?;
///     }
///     both.commit();
///     Ok(())
/// }
///
/// let mut model = MemoryModel::new();
/// let mut t = model.transaction();
/// assert!(plug(&mut t, [0x1000, 0]).is_err(), "the first is removed, too");
/// plug(&mut t, [0x1000, 0x2000])?;
/// t.commit()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Meanwhile, the outer transaction can be neither used nor committed:
///
/// ```compile_fail,E0505
/// # let mut model = memory_model::MemoryModel::<()>::new();
/// let mut outer = model.transaction();
/// let inner = outer.nested();
/// outer.commit();
/// inner.commit();
/// ```
#[derive(Debug)]
pub struct Nested<'t, 'm, H> {
    outer: &'t mut Transaction<'m, H>,
    /// The number of steps before.
    steps: usize,
    /// The transaction's windows before.
    windows: Mark,
}

impl<'m, H> Transaction<'m, H> {
    /// Begins a part of this transaction that can be undone on its own.
    pub fn nested(&mut self) -> Nested<'_, 'm, H> {
        Nested {
            steps: self.model.undo.len(),
            windows: self.windows.mark(),
            outer: self,
        }
    }
}

impl<H> Nested<'_, '_, H> {
    /// Makes its steps part of the outer transaction.
    pub fn commit(mut self) {
        // The drop then undoes no step.
        self.steps = self.outer.model.undo.len();
        self.windows = self.outer.windows.mark();
    }
}

impl<H> Drop for Nested<'_, '_, H> {
    fn drop(&mut self) {
        self.outer.model.roll_back_to(self.steps);
        self.outer.windows.roll_back_to(self.windows);
    }
}

impl<'m, H> Deref for Nested<'_, 'm, H> {
    type Target = Transaction<'m, H>;

    fn deref(&self) -> &Self::Target {
        self.outer
    }
}

impl<H> DerefMut for Nested<'_, '_, H> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        self.outer
    }
}
