// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Totals of the regions of a machine file, counted as they are read.

use super::error::MachineError;
use super::fields::{Field, Subject};
use super::limits::{Budget, MAX_DEPTH, MAX_INIT, MAX_PIECES, MAX_SPANS};
use super::raw::RawRegion;
use super::spec::Place;

/// The totals of the regions so far.
pub(super) struct Totals {
    pub(super) init: Budget,
    pub(super) spans: Budget,
    pub(super) all_pieces: Budget,
    /// The depth of each region.
    depths: Vec<usize>,
    /// How many pieces each is cut into.
    pub(super) pieces: Vec<u64>,
}

impl Totals {
    /// Of the root alone.
    pub(super) fn new() -> Self {
        Self {
            init: Budget::new(MAX_INIT, "initial values"),
            spans: Budget::new(MAX_SPANS, "private and shared ranges of BARs"),
            all_pieces: Budget::new(MAX_PIECES, "pieces of BARs"),
            depths: vec![0],
            pieces: vec![0],
        }
    }

    /// Counts the items of a list.
    pub(super) fn list<T>(
        budget: &mut Budget,
        subject: &Subject<'_>,
        (name, list): Field<'_, Vec<T>>,
    ) -> Result<(), MachineError> {
        let Some(list) = list else { return Ok(()) };
        let taken = budget.take(list.as_ref().len() as u64);
        taken.map_err(|problem| subject.wrong(name, list.span(), problem))
    }

    /// Counts a region that is in another one.
    pub(super) fn nest(
        &mut self,
        subject: &Subject<'_>,
        raw: &RawRegion,
        place: Option<Place>,
    ) -> Result<(), MachineError> {
        let depth = place.map_or(0, |place| self.depths[place.parent] + 1);
        self.depths.push(depth);
        match &raw.r#in {
            Some(parent) if depth > MAX_DEPTH => {
                let problem = format!("more than {MAX_DEPTH} regions lie around it");
                Err(subject.wrong("in", parent.span(), problem))
            }
            _ => Ok(()),
        }
    }
}
