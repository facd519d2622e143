// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A node that several trees can share.

use alloc::sync::Arc;
use core::ops::Deref;

/// A handle of a node: an `Arc` that keeps the node in cache lines of its own.
///
/// A writer that copies the node above updates the counters of this one. If they were
/// in the same line as the node's first addresses, readers would wait for these.
#[derive(Debug)]
pub(super) struct Shared<N>(Arc<Apart<N>>);

#[derive(Clone, Debug)]
#[repr(align(64))]
struct Apart<N>(N);

impl<N> Clone for Shared<N> {
    #[inline]
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<N> Deref for Shared<N> {
    type Target = N;

    #[inline(always)]
    fn deref(&self) -> &N {
        &self.0.0
    }
}

impl<N> Shared<N> {
    pub(super) fn new(node: N) -> Self {
        Self(Arc::new(Apart(node)))
    }

    /// Whether this is the only handle. That stays true until it is cloned.
    #[inline]
    pub(super) fn is_own(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    /// Whether both are handles of one node.
    #[inline]
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The node, to change it, if this is the only handle.
    #[inline]
    pub(super) fn get_mut(&mut self) -> Option<&mut N> {
        Arc::get_mut(&mut self.0).map(|apart| &mut apart.0)
    }
}

impl<N: Clone> Shared<N> {
    /// The node, to change it: a copy if there are other handles.
    pub(super) fn make_mut(&mut self) -> &mut N {
        &mut Arc::make_mut(&mut self.0).0
    }

    /// The node itself: a copy if there are other handles.
    pub(super) fn into_node(self) -> N {
        Arc::unwrap_or_clone(self.0).0
    }
}
