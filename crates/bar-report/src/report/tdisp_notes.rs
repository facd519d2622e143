// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Writes notes about the contents of a TDISP report.

use vfio_private::report::MmioRange;
use vfio_private::{BarIndex, LeftOut, MsixParts, Piece, Reason, ReportedRange};

use crate::report::note::{Note, Topic};

/// The most ranges that a note lists.
const MAX_NAMED: usize = 8;

/// Notes the ranges that are in no BAR.
pub(super) fn left_out(ranges: &[LeftOut]) -> Option<Note> {
    let mut names: Vec<String> = ranges
        .iter()
        .take(MAX_NAMED)
        .map(LeftOut::to_string)
        .collect();
    match ranges.len().saturating_sub(MAX_NAMED) {
        0 => {}
        more => names.push(format!("and {more} more")),
    }
    let text = || {
        format!(
            "ranges whose ID is not a BAR number are left out: {}",
            names.join("; ")
        )
    };
    (!names.is_empty()).then(|| Note::new(Topic::Report, text()))
}

/// Notes that a range without a BAR locks MSI-X structures.
pub(super) fn locked_elsewhere(ranges: &[LeftOut]) -> Option<Note> {
    let locked = ranges
        .iter()
        .find(|left| left.range.msix() != MsixParts::NONE)?;
    let text = format!(
        "the device has locked the {}, by range {}: it rejects the host's accesses, so \
         trapping may not work; lock without LOCK_MSIX",
        locked.range.msix(),
        locked.n
    );
    Some(Note::new(Topic::Report, text))
}

/// Notes that the host cannot reach MSI-X structures although they are not TEE
/// memory.
pub(super) fn locked_open(index: BarIndex, ranges: &[ReportedRange]) -> Vec<Note> {
    let locked = ranges.iter().filter(|range| range.locks_host_out());
    let note = |range: &ReportedRange| {
        let text = format!(
            "the device has locked the {} in {}, which is not TEE memory: it rejects the \
             host's accesses, so trapping may not work; lock without LOCK_MSIX",
            range.msix,
            range.range.dashed()
        );
        Note::new(Topic::Report, text).of_bar(index)
    };
    let mut notes: Vec<Note> = locked.clone().take(MAX_NAMED).map(note).collect();
    match locked.count().saturating_sub(MAX_NAMED) {
        0 => {}
        more => {
            let text = format!("this also applies to {more} more ranges");
            notes.push(Note::new(Topic::Report, text).of_bar(index));
        }
    }
    notes
}

/// Notes that the guest may change the pieces of the BAR later.
pub(super) fn updatable(index: BarIndex, ranges: &[MmioRange]) -> Option<Note> {
    let is_own = |range: &MmioRange| range.id() == u16::from(index.get()) && range.is_updatable();
    let text = "the guest may switch ranges of this BAR between TEE and non-TEE memory later: this \
                is what they were when the interface was locked";
    ranges
        .iter()
        .any(is_own)
        .then(|| Note::new(Topic::Report, text).of_bar(index))
}

/// Notes that the guest writes the MSI-X table.
pub(super) fn left_to_guest(index: BarIndex, pieces: &[Piece]) -> Option<Note> {
    let is_left = |piece: &Piece| piece.reasons().contains(Reason::MsixLeftToGuest);
    let text = "the MSI-X structures are left to the guest: correct only if the platform \
                restricts the interrupts that a guest can set up";
    pieces
        .iter()
        .any(is_left)
        .then(|| Note::new(Topic::Report, text).of_bar(index))
}
