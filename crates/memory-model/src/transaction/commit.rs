// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How a transaction is committed: planned, prepared, applied, published.

use alloc::string::ToString;
use alloc::vec::Vec;

use smallvec::SmallVec;

use crate::attachments::active::{AttachmentDiff, Touched};
use crate::error::{CommitError, ListenerError, NotUndone};
use crate::listener::{Listener, notify_each};
use crate::logging::GlobalLogging;
use crate::model::MemoryModel;
use crate::render::extents::Ranges;
use crate::transaction::Transaction;
use crate::transaction::change::Change;
use crate::transaction::undo::Undo;

impl<H> Transaction<'_, H> {
    /// Makes the changes take effect. Every listener of every space that differs
    /// prepares, then every listener applies, then the new views are published, then
    /// every listener commits. A space without a difference is skipped.
    ///
    /// # Errors
    /// [`CommitError`]. Nothing has changed then, and the transaction ends: the
    /// regions that it added are removed, and their ids are invalid. To try again,
    /// repeat the steps in a new transaction when the reason no longer applies. For
    /// [`CommitError::Accepted`], that is when the guest has given the range back or
    /// the host has [revoked](MemoryModel::revoke) it. If [`CommitError::Refused`]
    /// lists listeners that could not roll back, these need a resync, which the next
    /// change does.
    ///
    /// # Panics
    /// If a listener panics. A panic in `prepare` or `apply` counts as a refusal: the
    /// listeners that have prepared abort, and nothing has changed. After a panic in
    /// `commit` the changes are in effect, and the remaining listeners still commit. A
    /// second panic during that aborts the process.
    pub fn commit(mut self) -> Result<(), CommitError> {
        if Undo::is_nothing(&self.model.undo, &self.model.tree) {
            self.model.undo.clear();
            return Ok(());
        }
        let changes = self.plan()?;
        make(self.model, &changes)?;
        for change in &changes {
            if !change.diff.is_empty() {
                self.model.spaces[change.at].publish(&change.new);
            }
        }
        let removed = |step: &Undo<H>| matches!(step, Undo::Remove(..));
        let removes = self.model.undo.iter().any(removed);
        // From here on, the listeners are notified, even if something panics.
        let mut made = Made {
            model: self.model,
            changes,
            notified: (0, 0),
            removes,
        };
        // The change can no longer be rolled back, nor can steps that remain if
        // dropping one of them panics.
        drop(made.model.undo.drain(..));
        made.notify();
        Ok(())
    }

    /// Renders what can differ, and returns the changes of the spaces that do.
    fn plan(&mut self) -> Result<Changes<H>, CommitError> {
        let global_logging = GlobalLogging {
            before: self.logging_before,
            after: self.model.tree.global_logging(),
        };
        let windows = &mut self.windows;
        if global_logging.changes() {
            windows.add_everything();
        }
        let (tree, spaces) = (&self.model.tree, &self.model.spaces);
        let ids = || spaces.iter().map(|space| space.id);
        let mut windows = windows.by_space(ids());
        let mut marked = SmallVec::new();
        if let Some(touched) = &self.touched {
            marked = touched.windows(tree).by_space(ids());
            for (space, _) in &marked {
                if let Err(at) = windows.binary_search_by_key(space, |w| w.0) {
                    windows.insert(at, (*space, Ranges::new()));
                }
            }
        }
        let attached = tree.has_attachments() || self.touched.is_some();
        let mut changes = Changes::new();
        for (id, windows) in windows {
            // A region shows in no space that was removed.
            let Ok(at) = spaces.position(id) else {
                continue;
            };
            let space = &spaces[at];
            let old = space.view.clone();
            let mut diff = core::mem::take(&mut self.model.spare);
            let new = space.updated_view(tree, &old, &windows, &mut diff, &mut self.model.pool)?;
            let attachments = match attached {
                true => {
                    let views = [&*old, &*new];
                    let marked = marked.iter().find(|w| w.0 == id).map(|w| &w.1[..]);
                    AttachmentDiff::between(
                        tree,
                        self.touched.as_ref().unwrap_or(&Touched::default()),
                        views,
                        &diff,
                        marked.unwrap_or(&[]),
                    )
                }
                false => AttachmentDiff::default(),
            };
            if diff.is_empty() && attachments.is_empty() && !global_logging.changes() {
                continue;
            }
            space.accepted_stays(&diff)?;
            changes.push(Change {
                at,
                old,
                new,
                diff,
                global_logging,
                attachments,
            });
        }
        Ok(changes)
    }
}

/// Makes every listener prepare, and then every listener apply. If one refuses, those
/// that have prepared abort.
#[inline]
fn make<H>(model: &MemoryModel<H>, changes: &[Change<H>]) -> Result<(), CommitError> {
    let mut prepared = Prepared {
        model,
        changes,
        count: 0,
    };
    for change in changes {
        let update = change.update(&model.spaces);
        for (_, listener) in &model.spaces[change.at].listeners {
            if let Err(source) = listener.prepare(&update) {
                return Err(prepared.refused(&**listener, source));
            }
            prepared.count += 1;
        }
    }
    for change in changes.iter().rev() {
        let update = change.update(&model.spaces);
        for (_, listener) in model.spaces[change.at].listeners.iter().rev() {
            if let Err(source) = listener.apply(&update) {
                return Err(prepared.refused(&**listener, source));
            }
        }
    }
    prepared.count = 0;
    Ok(())
}

/// Listeners that have prepared for a change that can still be refused. They
/// abort when this is dropped, also if another listener panics.
struct Prepared<'a, H> {
    model: &'a MemoryModel<H>,
    changes: &'a [Change<H>],
    /// The number of listeners that have prepared, from the first on.
    count: usize,
}

impl<H> Prepared<'_, H> {
    /// Makes them abort, because `listener` refused.
    #[cold]
    fn refused(&mut self, listener: &dyn Listener<H>, source: ListenerError) -> CommitError {
        CommitError::Refused {
            listener: listener.name().to_string(),
            source,
            not_undone: self.roll_back(),
        }
    }

    /// Calls `abort` on them, the last to prepare first; returns those that
    /// fail.
    #[cold]
    fn roll_back(&mut self) -> Vec<NotUndone> {
        let all = self.changes.iter().flat_map(|change| {
            let listeners = &self.model.spaces[change.at].listeners;
            listeners
                .iter()
                .map(move |(_, listener)| (change, listener))
        });
        let prepared: Vec<_> = all.take(self.count).collect();
        self.count = 0;
        let mut not_undone = Vec::new();
        notify_each(prepared.into_iter().rev(), |(change, listener)| {
            if let Err(source) = listener.abort(&change.update(&self.model.spaces)) {
                let listener = listener.name().to_string();
                not_undone.push(NotUndone { listener, source });
            }
        });
        not_undone
    }
}

impl<H> Drop for Prepared<'_, H> {
    #[inline]
    fn drop(&mut self) {
        if self.count > 0 {
            self.roll_back();
        }
    }
}

/// The changes of a transaction. Most transactions change one space.
type Changes<H> = SmallVec<[Change<H>; 1]>;

/// Changes that are published. All listeners are notified, also those after one
/// that panics, and then the model drops what it no longer needs.
struct Made<'m, H> {
    model: &'m mut MemoryModel<H>,
    changes: Changes<H>,
    /// For how many changes all listeners are notified, and how many for the next.
    notified: (usize, usize),
    /// Whether a region was removed.
    removes: bool,
}

impl<H> Made<'_, H> {
    #[inline]
    fn notify(&mut self) {
        while let Some(change) = self.changes.get(self.notified.0) {
            let listeners = &self.model.spaces[change.at].listeners;
            while let Some((_, listener)) = listeners.get(self.notified.1) {
                self.notified.1 += 1;
                listener.commit(&change.update(&self.model.spaces));
            }
            self.notified = (self.notified.0 + 1, 0);
        }
    }
}

impl<H> Drop for Made<'_, H> {
    #[inline]
    fn drop(&mut self) {
        self.notify();
        for change in &mut self.changes {
            recycle(self.model, change);
        }
        // An old view keeps removed regions alive. Only its readers may hold it now.
        if self.removes {
            self.model.pool.let_go();
        }
    }
}

/// A change of more runs than this is unusual.
const MANY: usize = 64;

/// Keeps what the next commit can reuse of a change that is complete.
fn recycle<H>(model: &mut MemoryModel<H>, change: &mut Change<H>) {
    let large = change.diff.len() > MANY;
    change.diff.clear();
    core::mem::swap(&mut model.spare, &mut change.diff);
    let old = core::mem::replace(&mut change.old, change.new.clone());
    model.pool.retire(old);
    // After a large change, the retained nodes could be those of a whole view.
    if large {
        model.pool.let_go();
    }
}
