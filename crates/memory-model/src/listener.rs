// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Who follows a view: a KVM memslot table, a DMA mapper, an ioeventfd bus.

use crate::{AttachmentDiff, Diff, FlatView, GlobalLogging, ListenerError, PageSet, SpaceId};

/// A change of one address space, as listeners see it. Something differs, not
/// always the view.
#[derive(Debug)]
pub struct Update<'a, H> {
    /// The address space.
    pub space: SpaceId,
    /// The view before.
    pub old: &'a FlatView<H>,
    /// The view after. Readers do not see it before every listener has
    /// prepared for it.
    pub new: &'a FlatView<H>,
    /// What differs between the views.
    pub diff: &'a Diff<H>,
    /// For whom all memory is logged. The diff has the runs for which that
    /// makes a difference, [`FlatView::unloggable`] those for which it cannot.
    pub global_logging: GlobalLogging,
    /// The ioeventfds and coalesced ranges that differ.
    pub attachments: &'a AttachmentDiff,
    /// The pages that are private, before and after alike: a change of the
    /// view leaves them so, whatever memory comes there.
    pub private: &'a PageSet,
}

/// Follows an address space.
///
/// All calls come on the thread that commits, one at a time. Of the listeners
/// of one space, lower priorities prepare first; spaces come in the order in
/// which they were added. A view that no listener could follow is never published.
pub trait Listener<H>: Send + Sync {
    /// Names the listener in errors.
    fn name(&self) -> &str;

    /// Makes the change, or refuses it and leaves everything as it was.
    ///
    /// # Errors
    /// Any error refuses the whole transaction: listeners that prepared before
    /// are told to [`abort`](Self::abort), the latest first.
    fn prepare(&self, update: &Update<'_, H>) -> Result<(), ListenerError>;

    /// The new view is published: what `prepare` kept to go back can go.
    fn commit(&self, _update: &Update<'_, H>) {}

    /// Undoes what `prepare` did.
    ///
    /// # Errors
    /// What could not be undone; the error of the commit carries it.
    fn abort(&self, _update: &Update<'_, H>) -> Result<(), ListenerError> {
        Ok(())
    }

    /// The guest lost these pages of private MMIO, which it had accepted.
    fn revoked(&self, _space: SpaceId, _lost: &PageSet) {}
}
