// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Formats the report as JSON.

use serde_json::{Value, json};
use vfio_private::{BarIndex, BarKind, BarRange, Msix, Piece};

use crate::report::note::Note;
use crate::report::{BarReport, ClassifiedBar};

impl BarReport {
    /// Formats the report as JSON: the device, and its BARs with their pieces and the notes that
    /// apply to them. Numbers of bytes are strings in hexadecimal, because not all JSON parsers
    /// handle 64-bit numbers. The size of an I/O BAR is `null` if it is unknown.
    pub fn to_json(&self) -> Value {
        let of_device = self.notes.iter().filter(|note| note.bar.is_none());
        json!({
            "device": self.name,
            "page_size": hex(self.page.bytes()),
            "msix": self.msix.as_ref().map(msix),
            "bars": self.bars_json(),
            "notes": of_device.map(Note::to_string).collect::<Vec<_>>(),
        })
    }

    /// Returns all BARs in ascending order.
    fn bars_json(&self) -> Vec<Value> {
        let sized = self.bars.iter();
        let sized = sized.map(|bar| (bar.bar.index(), self.sized(bar)));
        let others = self.unsized_io.iter();
        let others = others.map(|&index| (index, self.unsized_io(index)));
        let mut bars: Vec<(BarIndex, Value)> = sized.chain(others).collect();
        bars.sort_by_key(|(index, _)| *index);
        bars.into_iter().map(|(_, bar)| bar).collect()
    }

    fn sized(&self, of: &ClassifiedBar) -> Value {
        let (index, kind) = (of.bar.index(), of.bar.kind());
        json!({
            "bar": index.get(),
            "kind": word(kind),
            "size": hex(of.bar.size()),
            "width": of.memory_type.map(|known| known.width.word()),
            "prefetchable": of.memory_type.map(|known| known.prefetchable),
            "pieces": of.pieces.iter().map(piece).collect::<Vec<_>>(),
            "notes": self.notes_json(index, kind),
        })
    }

    fn unsized_io(&self, index: BarIndex) -> Value {
        json!({
            "bar": index.get(),
            "kind": word(BarKind::Io),
            "size": null,
            "width": null,
            "prefetchable": null,
            "pieces": [],
            "notes": self.notes_json(index, BarKind::Io),
        })
    }

    fn notes_json(&self, index: BarIndex, kind: BarKind) -> Vec<String> {
        self.notes_on(index, kind).map(Note::to_string).collect()
    }
}

fn word(kind: BarKind) -> &'static str {
    match kind {
        BarKind::Memory => "memory",
        BarKind::Io => "io",
    }
}

fn msix(msix: &Msix) -> Value {
    let place = |place: BarRange| {
        json!({
            "bar": place.bar.get(),
            "offset": hex(place.range.start()),
            "size": format!("{:#x}", place.range.size()),
        })
    };
    json!({"table": place(msix.table), "pba": place(msix.pba)})
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
