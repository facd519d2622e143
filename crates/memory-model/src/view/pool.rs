// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A pool of views without readers, and of nodes, for reuse in the next view.
//!
//! What changes once often changes again. A view in the pool therefore keeps its
//! contents until the next view is made from it, and most of its nodes stay as they
//! are.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use crate::runs::Edit;
use crate::runs::spare::SpareNodes;
use crate::view::FlatView;

/// The number of views that are kept, and of further views that wait for their readers
/// to move to newer ones.
const VIEWS: usize = 4;

/// Views and nodes that only the pool owns.
pub(crate) struct Pool<H> {
    /// Views that were replaced, the oldest first. If the last reader dropped one, it
    /// would update hundreds of counters that the next change writes to as well, and
    /// the two would wait for each other.
    retired: Vec<Arc<FlatView<H>>>,
    /// Views without readers, the oldest first.
    views: Vec<Arc<FlatView<H>>>,
    pub(crate) nodes: SpareNodes<H>,
}

impl<H> Default for Pool<H> {
    fn default() -> Self {
        Self {
            retired: Vec::new(),
            views: Vec::new(),
            nodes: SpareNodes::default(),
        }
    }
}

impl<H> fmt::Debug for Pool<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({} views, {:?})", self.views.len(), self.nodes)
    }
}

impl<H> Pool<H> {
    /// Adds a view that was replaced, as soon as it has no readers.
    pub(crate) fn retire(&mut self, view: Arc<FlatView<H>>) {
        if self.retired.is_empty() && Arc::strong_count(&view) == 1 {
            return self.take_in(view);
        }
        self.retired.push(view);
        let mut at = 0;
        while let Some(view) = self.retired.get(at) {
            match Arc::strong_count(view) {
                1 => {
                    let view = self.retired.remove(at);
                    self.take_in(view);
                }
                _ => at += 1,
            }
        }
        if self.retired.len() > VIEWS {
            self.retired.remove(0);
        }
    }

    /// Drops everything. Views with readers stay alive until these drop them.
    pub(crate) fn let_go(&mut self) {
        *self = Self::default();
    }

    /// Adds a view without readers.
    pub(crate) fn take_in(&mut self, view: Arc<FlatView<H>>) {
        if self.views.len() == VIEWS {
            let mut oldest = self.views.remove(0);
            if let Some(view) = Arc::get_mut(&mut oldest) {
                view.runs.empty_into(&mut self.nodes);
            }
        }
        self.views.push(view);
    }

    /// A copy of a view with the runs in the range of each edit replaced.
    #[inline]
    pub(crate) fn edited(&mut self, view: &FlatView<H>, edits: &[Edit<H>]) -> Arc<FlatView<H>> {
        let mut new = self.copy(view);
        if let Some(new) = Arc::get_mut(&mut new) {
            new.runs.edit(edits, &mut self.nodes);
        }
        self.nodes.tidy_up();
        new
    }

    /// A view with the same runs as another. The caller changes it and then calls
    /// [`SpareNodes::tidy_up`].
    pub(crate) fn copy(&mut self, view: &FlatView<H>) -> Arc<FlatView<H>> {
        // If several spaces change at once, they are likely to do so in the same order.
        let mut spare = match self.views.len() {
            0 | 1 => self.views.pop(),
            _ => Some(self.views.remove(0)),
        };
        match spare.as_mut().and_then(Arc::get_mut) {
            None => Arc::new(FlatView::of(view.runs.clone())),
            Some(own) => {
                own.runs.become_like(&view.runs, &mut self.nodes);
                spare.unwrap_or_else(|| Arc::new(FlatView::empty()))
            }
        }
    }
}
