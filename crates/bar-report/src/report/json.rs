// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Formats the report as JSON.

use serde_json::{Value, json};
use vfio_private::Piece;

use crate::report::BarReport;
use crate::report::note::Note;

impl BarReport {
    /// Formats the report as JSON: an array of the BARs with their pieces and the notes that apply
    /// to them. Numbers of bytes are strings in hexadecimal, because not all JSON parsers handle
    /// 64-bit numbers.
    pub fn to_json(&self) -> Value {
        let bars = self.bars.iter().map(|bar| {
            let notes: Vec<String> = self.notes_of(bar).map(Note::to_string).collect();
            json!({
                "bar": bar.bar.index().get(),
                "size": hex(bar.bar.size()),
                "pieces": bar.pieces.iter().map(piece).collect::<Vec<_>>(),
                "notes": notes,
            })
        });
        bars.collect()
    }
}

fn piece(piece: &Piece) -> Value {
    let reasons = piece.reasons();
    let reasons: Vec<String> = reasons.iter().map(|reason| reason.to_string()).collect();
    json!({
        "offset": hex(piece.offset()),
        "size": hex(piece.size()),
        "access": piece.access().to_string(),
        "kvm": piece.kvm_mappable(),
        "dma": piece.dma_mappable(),
        "reasons": reasons,
    })
}

fn hex(number: u64) -> String {
    format!("{number:#x}")
}
