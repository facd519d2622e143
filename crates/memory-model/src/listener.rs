// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Listeners follow a view: a KVM memslot table, a DMA mapper, an ioeventfd bus.

use guest_ranges::PageSet;

use crate::attachments::active::AttachmentDiff;
use crate::diff::Diff;
use crate::error::ListenerError;
use crate::ids::SpaceId;
use crate::logging::GlobalLogging;
use crate::view::FlatView;

/// A change of one address space, as listeners see it. The view, the logging or the
/// attachments differ.
#[derive(Debug)]
#[non_exhaustive]
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
    /// The clients for which all memory is logged. The diff has the runs that this
    /// affects. [`FlatView::unloggable`] lists the runs that cannot be logged.
    pub global_logging: GlobalLogging,
    /// The ioeventfds and coalesced ranges that differ.
    pub attachments: &'a AttachmentDiff,
    /// The private pages. A change of the view does not affect them, whatever
    /// memory it adds at their addresses.
    pub private: &'a PageSet,
}

/// Follows an address space.
///
/// The committing thread makes all calls, one at a time. A view that some listener
/// cannot follow is never published. An
/// [added](crate::MemoryModel::add_listener) listener gets a change from nothing, a
/// [removed](crate::MemoryModel::remove_listener) one a change to nothing.
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
/// `apply`, when all listeners have agreed. Within a space, the listener with the
/// lowest priority applies last. Across spaces, those of the space that was added
/// first apply last. Add the space of the guest's memory first, and give the lowest
/// priority in it to the listener whose changes the guest sees: the memslots. Then
/// no other listener can refuse after it.
///
/// # Why there are two stages
///
/// With a single stage, a listener that changes what the guest sees would have to
/// undo it when a later listener refuses. The guest would see the change and its
/// rollback, or every change would have to stop the vCPUs. With two, all refusals
/// come before the first visible change. In `apply`, only an operation that fails
/// unexpectedly still refuses, such as an ioctl.
///
/// # Why removals do not come first
///
/// QEMU notifies listeners of removals in the reverse order, range by range, and then
/// of additions. Here, the order is the same for both. A listener gets a whole
/// change in one call, so that it can plan everything before it touches
/// anything, turn a removal and an addition into a move, and leave no gap that
/// it can avoid. No listener has to release removed memory first: the old view
/// keeps the memory valid until all have committed. To use the memory for
/// something else, wait until the transaction has returned.
///
/// While a change is applied, listeners that apply earlier already have the new
/// view, and the others still have the old one. Devices lose memory before the
/// guest does if their listener applies before the memslots. If a device must never
/// reach memory that the guest cannot, stop the device before the commit.
///
/// # Listeners that can fail
///
/// A [`Follower`](crate::Follower) implements this trait for a type that plans,
/// applies and undoes changes. It tracks what is applied. It resyncs after a panic
/// or a failure that could not be undone.
///
/// # Panics
///
/// A listener that panics leaves no change half made. See
/// [`Transaction::commit`](crate::Transaction::commit).
pub trait Listener<H>: Send + Sync {
    /// Names the listener in errors.
    fn name(&self) -> &str;

    /// Prepares for the change, or refuses it and leaves everything unchanged. A
    /// listener whose work is invisible to the guest can make the change here.
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
    /// What could not be undone. The error of
    /// [`Transaction::commit`](crate::Transaction::commit) includes it;
    /// [`add_listener`](crate::MemoryModel::add_listener) and
    /// [`remove_listener`](crate::MemoryModel::remove_listener) drop it.
    fn abort(&self, _update: &Update<'_, H>) -> Result<(), ListenerError> {
        Ok(())
    }

    /// The host revoked these accepted pages of private MMIO.
    fn revoked(&self, _space: SpaceId, _lost: &PageSet) {}
}

/// Calls `notify` for each item, also for those after one with which it panics.
pub(crate) fn notify_each<T>(all: impl Iterator<Item = T>, notify: impl FnMut(T)) {
    struct Rest<I: Iterator, F: FnMut(I::Item)>(I, F);

    impl<I: Iterator, F: FnMut(I::Item)> Rest<I, F> {
        fn notify(&mut self) {
            for next in self.0.by_ref() {
                (self.1)(next);
            }
        }
    }

    impl<I: Iterator, F: FnMut(I::Item)> Drop for Rest<I, F> {
        fn drop(&mut self) {
            self.notify();
        }
    }

    Rest(all, notify).notify();
}
