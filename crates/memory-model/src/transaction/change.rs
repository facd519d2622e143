// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The change of one address space: what a commit, an added listener and a
//! removed listener get.

use alloc::sync::Arc;

use crate::attachments::active::AttachmentDiff;
use crate::diff::Diff;
use crate::error::ListenerError;
use crate::listener::{Listener, Update};
use crate::logging::{DirtyClients, GlobalLogging};
use crate::space::Spaces;
use crate::tree::Tree;
use crate::view::FlatView;

/// A change of one address space, for all of its listeners or for a single one.
pub(crate) struct Change<H> {
    /// The position of the space in the model.
    pub(crate) at: usize,
    pub(crate) old: Arc<FlatView<H>>,
    pub(crate) new: Arc<FlatView<H>>,
    pub(crate) diff: Diff<H>,
    pub(crate) global_logging: GlobalLogging,
    pub(crate) attachments: AttachmentDiff,
}

impl<H> Change<H> {
    /// The change from nothing to all that a space shows.
    pub(crate) fn from_nothing(tree: &Tree<H>, spaces: &Spaces<H>, at: usize) -> Self {
        let (old, new) = (Arc::new(FlatView::empty()), spaces[at].view.clone());
        Self {
            at,
            diff: Diff::between(&old, &new),
            global_logging: GlobalLogging {
                before: DirtyClients::NONE,
                after: tree.global_logging(),
            },
            attachments: AttachmentDiff::to_all_of(tree, &new),
            old,
            new,
        }
    }

    /// The change from all that a space shows to nothing.
    pub(crate) fn to_nothing(tree: &Tree<H>, spaces: &Spaces<H>, at: usize) -> Self {
        let Self {
            old: nothing,
            new: view,
            global_logging,
            attachments,
            ..
        } = Self::from_nothing(tree, spaces, at);
        Self {
            at,
            diff: Diff::between(&view, &nothing),
            global_logging: GlobalLogging {
                before: global_logging.after,
                after: global_logging.before,
            },
            attachments: attachments.reversed(),
            old: view,
            new: nothing,
        }
    }

    /// Whether anything changes. Attachments need no check: without a run, none
    /// is active.
    pub(crate) fn is_something(&self) -> bool {
        !self.diff.is_empty() || self.global_logging.changes()
    }

    /// The change as listeners see it.
    #[inline]
    pub(crate) fn update<'a>(&'a self, spaces: &'a Spaces<H>) -> Update<'a, H> {
        let space = &spaces[self.at];
        Update {
            space: space.id,
            old: &self.old,
            new: &self.new,
            diff: &self.diff,
            global_logging: self.global_logging,
            attachments: &self.attachments,
            private: &space.private,
        }
    }

    /// Has a single listener prepare and apply. The listener aborts if it fails
    /// to apply or panics.
    pub(crate) fn apply_to<L: Listener<H> + ?Sized>(
        &self,
        spaces: &Spaces<H>,
        listener: &L,
    ) -> Result<(), ListenerError> {
        struct Prepared<F: FnMut()>(F);

        impl<F: FnMut()> Drop for Prepared<F> {
            fn drop(&mut self) {
                (self.0)();
            }
        }

        listener.prepare(&self.update(spaces))?;
        let prepared = Prepared(|| {
            // The caller gets the error that caused the abort.
            let _ = listener.abort(&self.update(spaces));
        });
        listener.apply(&self.update(spaces))?;
        core::mem::forget(prepared);
        Ok(())
    }
}
