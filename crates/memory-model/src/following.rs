// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Listeners that come, and are told what there is, or go, and are told that it
//! is gone.

use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ptr;

use crate::space::Space;
use crate::transaction::commit::Change;
use crate::{
    AttachmentDiff, CommitError, Diff, DirtyClients, FlatView, GlobalLogging, Listener,
    ListenerError, MemoryModel, NoSuchSpace, SpaceId,
};

impl<H> MemoryModel<H> {
    /// Has `listener` follow `space`, starting with a change from nothing to
    /// the view as it is.
    ///
    /// A listener follows one space. To follow several with the same code, add
    /// a listener for each.
    ///
    /// # Errors
    /// [`AddListenerError`]. The listener then follows no new space.
    pub fn add_listener(
        &mut self,
        space: SpaceId,
        priority: i32,
        listener: Arc<dyn Listener<H>>,
    ) -> Result<(), AddListenerError> {
        self.undo_forgotten();
        let position = self.spaces.position(space)?;
        // A listener of two spaces would keep one state for both, and undoing a
        // change of one space would lose a change of the other.
        let mut spaces = self.spaces.iter();
        if let Some(followed) = spaces.find(|space| space.place_of(&listener).is_some()) {
            return Err(AddListenerError::Follows {
                listener: listener.name().to_string(),
                space: followed.name.clone(),
            });
        }
        let change = Change::comes(self, position);
        if change.is_something() {
            let made = change.make_alone(self, &*listener);
            made.map_err(|source| AddListenerError::Refused {
                listener: listener.name().to_string(),
                space: self.spaces[position].name.clone(),
                source,
            })?;
            listener.commit(&change.update(self));
        }
        let listeners = &mut self.spaces[position].listeners;
        let position = listeners.partition_point(|(p, _)| *p <= priority);
        listeners.insert(position, (priority, listener));
        Ok(())
    }

    /// Has `listener` follow `space` no longer, ending with a change from the
    /// view as it is to nothing: what it has mapped, it unmaps. Readers and
    /// other listeners notice nothing.
    ///
    /// A device that is unplugged leaves no mapping behind:
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use memory_model::{Listener, ListenerError, MemoryModel, Region, Update};
    /// /// What a device reaches by DMA.
    /// struct Mappings;
    ///
    /// impl Listener<()> for Mappings {
    ///     // …
    /// #   fn name(&self) -> &str { "DMA" }
    /// #   fn prepare(&self, _: &Update<'_, ()>) -> Result<(), ListenerError> { Ok(()) }
    /// }
    ///
    /// # let mut model = MemoryModel::new();
    /// # let mut t = model.transaction();
    /// # let root = t.add(Region::container("bus", 1 << 64))?;
    /// # t.commit()?;
    /// let bus = model.add_space("what the device sees", root)?;
    /// let mappings = Arc::new(Mappings);
    /// model.add_listener(bus, 0, mappings.clone())?;
    ///
    /// // Later:
    /// model.remove_listener(bus, &mappings)?;
    /// model.remove_space(bus)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`RemoveListenerError`]; it goes on following then, and nothing has
    /// changed. While the guest has accepted pages of the space, no listener
    /// leaves, since it would unmap them if it has them mapped: they are given
    /// back or [revoked](Self::revoke) first.
    pub fn remove_listener<L: Listener<H> + ?Sized>(
        &mut self,
        space: SpaceId,
        listener: &Arc<L>,
    ) -> Result<(), RemoveListenerError> {
        self.undo_forgotten();
        let position = self.spaces.position(space)?;
        let it = &self.spaces[position];
        let Some(place) = it.place_of(listener) else {
            return Err(RemoveListenerError::NotFollowing {
                listener: listener.name().to_string(),
                space: it.name.clone(),
            });
        };
        let change = Change::goes(self, position);
        it.accepted_stays(&change.diff)?;
        let tells = change.is_something();
        if tells {
            let made = change.make_alone(self, &**listener);
            made.map_err(|source| CommitError::Refused {
                listener: listener.name().to_string(),
                source,
                not_undone: Vec::new(),
            })?;
        }
        // It has left before it learns so: even if it panics then.
        self.spaces[position].listeners.remove(place);
        if tells {
            listener.commit(&change.update(self));
        }
        Ok(())
    }
}

impl<H> Space<H> {
    /// Where a listener is among those of the space.
    fn place_of<L: ?Sized>(&self, listener: &Arc<L>) -> Option<usize> {
        let mut all = self.listeners.iter();
        all.position(|(_, other)| ptr::addr_eq(Arc::as_ptr(other), Arc::as_ptr(listener)))
    }
}

/// Changes between nothing and all that a space shows.
impl<H> Change<H> {
    /// From nothing to all of the space at a position.
    fn comes(model: &MemoryModel<H>, at: usize) -> Self {
        let (old, new) = (Arc::new(FlatView::empty()), model.spaces[at].view.clone());
        Self {
            at,
            diff: Diff::between(&old, &new),
            global_logging: GlobalLogging {
                before: DirtyClients::NONE,
                after: model.tree.global_logging(),
            },
            attachments: AttachmentDiff::to_all_of(&model.tree, &new),
            old,
            new,
        }
    }

    /// From all to nothing.
    fn goes(model: &MemoryModel<H>, at: usize) -> Self {
        let Self {
            old: nothing,
            new: view,
            global_logging,
            attachments,
            ..
        } = Self::comes(model, at);
        Self {
            at,
            diff: Diff::between(&view, &nothing),
            global_logging: GlobalLogging {
                before: global_logging.after,
                after: global_logging.before,
            },
            attachments: attachments.turned_round(),
            old: view,
            new: nothing,
        }
    }

    /// Has one listener prepare and apply. It aborts if it fails to apply or
    /// panics.
    fn make_alone<L: Listener<H> + ?Sized>(
        &self,
        model: &MemoryModel<H>,
        listener: &L,
    ) -> Result<(), ListenerError> {
        struct Prepared<F: FnMut()>(F);

        impl<F: FnMut()> Drop for Prepared<F> {
            fn drop(&mut self) {
                (self.0)();
            }
        }

        listener.prepare(&self.update(model))?;
        let prepared = Prepared(|| {
            // The caller gets the error that caused the abort.
            let _ = listener.abort(&self.update(model));
        });
        listener.apply(&self.update(model))?;
        core::mem::forget(prepared);
        Ok(())
    }

    /// What is attached shows in some run.
    fn is_something(&self) -> bool {
        !self.diff.is_empty() || self.global_logging.changes()
    }
}

/// Why a listener does not follow a space.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AddListenerError {
    /// There is no such space.
    #[error(transparent)]
    NoSuchSpace(#[from] NoSuchSpace),
    /// It already follows a space, this one or another.
    #[error("listener '{listener}' already follows '{space}'")]
    Follows {
        /// The listener's name.
        listener: String,
        /// The address space that it follows.
        space: String,
    },
    /// It refused the first change, from nothing to the view.
    #[error("listener '{listener}' refused to follow '{space}'")]
    Refused {
        /// The listener's name.
        listener: String,
        /// The address space.
        space: String,
        /// The listener's error.
        source: ListenerError,
    },
}

/// Why a listener could not leave. It goes on following then.
#[derive(Debug, thiserror::Error)]
pub enum RemoveListenerError {
    /// There is no such space.
    #[error(transparent)]
    NoSuchSpace(#[from] NoSuchSpace),
    /// It does not follow the space.
    #[error("listener '{listener}' does not follow '{space}'")]
    NotFollowing {
        /// The listener's name.
        listener: String,
        /// The address space.
        space: String,
    },
    /// [`CommitError::Accepted`], or [`CommitError::Refused`] by itself.
    #[error(transparent)]
    Commit(#[from] CommitError),
}
