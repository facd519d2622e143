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
/// listener could follow is never published. One that
/// [comes](crate::MemoryModel::add_listener) is told of a change from nothing,
/// one that [leaves](crate::MemoryModel::remove_listener) of a change to nothing.
///
/// # Order
///
/// Spaces come in the order in which they were added. Within a space, lower
/// priorities come first, and among equals the listener that was added first.
/// [`prepare`](Self::prepare), [`commit`](Self::commit) and
/// [`revoked`](Self::revoked) are called in that order,
/// [`apply`](Self::apply) and [`abort`](Self::abort) in the reverse. Every
/// listener has prepared before the first one applies, and every listener has
/// applied before the new views are published.
///
/// A listener that can refuse a change, for want of room or because it cannot
/// express it, finds out in `prepare`. What a running guest notices is done in
/// `apply`, when the others have agreed. The listener with the lowest priority
/// applies last, so that no one can refuse after it: give that to the one whose
/// changes a guest sees, the memslots.
///
/// The order is the same for what comes and for what goes. A listener is given
/// all of a change in one call, removals and additions, so that it can plan the
/// whole before it touches anything, turn a removal and an addition into a
/// move, and leave no gap that it can avoid. Nobody has to let go first for
/// others to be able to: memory that goes stays valid, whoever still has it
/// mapped, until all have committed, as the old view holds it. Whoever wants to
/// use it for something else waits until the transaction has returned.
///
/// So while a change is made, those with a lower priority have the new view and
/// those with a higher one the old. If devices must not reach by DMA what the
/// guest itself cannot, a higher priority sees to that for what comes. For what
/// goes, whoever uses it is to be stopped beforehand, as a guest stops a device
/// before it moves its BARs or gives memory up.
///
/// # Panics
///
/// A listener that panics does not leave a change half made:
/// [`Transaction::commit`](crate::Transaction::commit) says what happens.
pub trait Listener<H>: Send + Sync {
    /// Names the listener in errors.
    fn name(&self) -> &str;

    /// Gets ready for the change, or refuses it and leaves everything as it
    /// was. A listener whose work no guest notices can make the change here.
    ///
    /// # Errors
    /// Any error refuses the whole transaction: listeners that prepared before
    /// are told to [`abort`](Self::abort), the latest first.
    fn prepare(&self, update: &Update<'_, H>) -> Result<(), ListenerError>;

    /// Makes the change: every listener has prepared for it. The new view is
    /// not published yet.
    ///
    /// # Errors
    /// Any error refuses the whole transaction, as in
    /// [`prepare`](Self::prepare). This listener has undone what it did here,
    /// and is told to [`abort`](Self::abort) like all others.
    fn apply(&self, _update: &Update<'_, H>) -> Result<(), ListenerError> {
        Ok(())
    }

    /// The new view is published: what was kept for an
    /// [`abort`](Self::abort) is not needed any more.
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
