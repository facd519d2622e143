// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What listeners are told of a conversion, and how they go back.

use std::sync::Arc;

use super::error::NotConvertedBack;
use super::listener::{Conversion, ConversionListener};
use super::range::PageRange;
use super::request::PageState;
use super::sides::Stretch;

/// What listeners are told; `None` if there is nothing to tell.
pub(super) fn change<'a>(
    to: PageState,
    stretches: &'a [Stretch],
    bare: &'a [PageRange],
) -> Option<Conversion<'a>> {
    let any = !stretches.is_empty() || !bare.is_empty();
    any.then_some(Conversion {
        to,
        stretches,
        bare,
    })
}

/// Has listeners go back, the last to prepare first; returns the numbers of
/// those that could not.
pub(super) fn abort(
    prepared: &[Arc<dyn ConversionListener>],
    change: Option<Conversion<'_>>,
    not_undone: &mut NotConvertedBack,
) -> Vec<usize> {
    let mut stuck = Vec::new();
    let Some(change) = change else { return stuck };
    for (number, listener) in prepared.iter().enumerate().rev() {
        if let Err(error) = listener.abort(&change) {
            not_undone.add_listener(listener.name(), error);
            stuck.push(number);
        }
    }
    stuck
}
