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
/// All calls come on the thread that commits, one at a time. A view that no
/// listener could follow is never published. A listener
/// that is [added](crate::MemoryModel::add_listener) gets a change from nothing,
/// one that is [removed](crate::MemoryModel::remove_listener) a change to nothing.
///
/// # Order
///
/// Spaces come in the order in which they were added. Within a space, lower
/// priorities come first, and among equals the listener that was added first.
/// [`prepare`](Self::prepare), [`commit`](Self::commit) and
/// [`revoked`](Self::revoked) are called in that order, [`apply`](Self::apply)
/// and [`abort`](Self::abort) in the reverse order. Every listener has prepared
/// before the first one applies, and every listener has applied before the new
/// views are published.
///
/// A listener that can refuse a change, because it lacks room or cannot express
/// it, refuses in `prepare`. It makes changes that a running guest notices in
/// `apply`, when all listeners have agreed. The listener with the lowest priority
/// applies last, and no other one can refuse after it. Give the lowest priority
/// to the listener whose changes the guest sees: the memslots.
///
/// The order is the same for removals and additions. A listener gets a whole
/// change in one call, so that it can plan everything before it touches
/// anything, turn a removal and an addition into a move, and leave no gap that
/// it can avoid. No listener has to release removed memory first: the old view
/// keeps the memory valid until all have committed. To use the memory for
/// something else, wait until the transaction has returned.
///
/// So while a change is applied, listeners with a higher priority have the new
/// view and those with a lower one the old. Devices lose memory before the guest
/// does if their listener has a higher priority than the memslots.
///
/// # Listeners that can fail
///
/// A [`Follower`](crate::Follower) implements this trait for whatever plans,
/// applies and undoes changes. It keeps track of what is applied, and resyncs
/// after a failure that could not be undone or a panic.
///
/// # Panics
///
/// A listener that panics does not leave a change half made:
/// [`Transaction::commit`](crate::Transaction::commit) says what happens.
pub trait Listener<H>: Send + Sync {
    /// Names the listener in errors.
    fn name(&self) -> &str;

    /// Prepares for the change, or refuses it and leaves everything unchanged. A
    /// listener whose work no guest notices can make the change here.
    ///
    /// # Errors
    /// Any error refuses the whole transaction: [`abort`](Self::abort) is called
    /// on the listeners that have prepared, the latest first.
    fn prepare(&self, update: &Update<'_, H>) -> Result<(), ListenerError>;

    /// Makes the change. Every listener has prepared for it, and the new view is
    /// not published yet.
    ///
    /// # Errors
    /// Any error refuses the whole transaction, as in
    /// [`prepare`](Self::prepare). A listener that returns an error has undone
    /// what it did here; [`abort`](Self::abort) is called on it as on all others.
    fn apply(&self, _update: &Update<'_, H>) -> Result<(), ListenerError> {
        Ok(())
    }

    /// The new view is published. State kept for an [`abort`](Self::abort) is no
    /// longer needed.
    ///
    /// It is too late to fail.
    fn commit(&self, _update: &Update<'_, H>) {}

    /// Undoes what [`prepare`](Self::prepare) did, and
    /// [`apply`](Self::apply) if it has been called and succeeded. The old view
    /// stays published.
    ///
    /// # Errors
    /// What could not be undone; the error of the commit carries it.
    fn abort(&self, _update: &Update<'_, H>) -> Result<(), ListenerError> {
        Ok(())
    }

    /// The guest lost these pages of private MMIO, which it had accepted.
    fn revoked(&self, _space: SpaceId, _lost: &PageSet) {}
}

/// Calls `tell` for each; for those behind one with which it panics, too.
pub(crate) fn tell_each<T>(all: impl Iterator<Item = T>, tell: impl FnMut(T)) {
    struct Rest<I: Iterator, F: FnMut(I::Item)>(I, F);

    impl<I: Iterator, F: FnMut(I::Item)> Rest<I, F> {
        fn tell(&mut self) {
            for next in self.0.by_ref() {
                (self.1)(next);
            }
        }
    }

    impl<I: Iterator, F: FnMut(I::Item)> Drop for Rest<I, F> {
        fn drop(&mut self) {
            self.tell();
        }
    }

    Rest(all, tell).tell();
}
