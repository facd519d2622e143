// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Devices as `lspci` prints them and as bytes, and the parts of a report in JSON.

use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

/// An NVMe disk: one BAR of 16 KiB with MSI-X in its third page.
pub const NVME: &str = include_str!("../../../examples/nvme-lspci.txt");

/// A network adapter: four BARs of three kinds, MSI-X in the last of them, and
/// a virtual function's region among its capabilities.
pub const NIC: &str = "\
0000:03:00.0 Ethernet controller: Example Corp Gigabit Adapter (rev 03)
\tControl: I/O+ Mem+ BusMaster+ SpecCycle- MemWINV- VGASnoop- ParErr- Stepping- SERR- FastB2B- DisINTx+
\tStatus: Cap+ 66MHz- UDF- FastB2B- ParErr- DEVSEL=fast >TAbort- <TAbort- <MAbort- >SERR- <PERR- INTx-
\tRegion 0: Memory at df200000 (32-bit, non-prefetchable) [size=128K]
\tRegion 2: I/O ports at d020 [disabled] [size=32]
\tRegion 3: Memory at <unassigned> (32-bit, non-prefetchable) [disabled] [size=256]
\tRegion 4: [virtual] Memory at d0a00000 (64-bit, prefetchable) [size=16K]
\tCapabilities: [a0] MSI-X: Enable+ Count=5 Masked-
\t\tVector table: BAR=4 offset=00000000
\t\tPBA: BAR=3 offset=00000080
\tCapabilities: [160 v1] Single Root I/O Virtualization (SR-IOV)
\t\tRegion 0: Memory at 00000000df400000 (64-bit, non-prefetchable)
\t\tVF Migration: offset: 00000000, BIR: 0
";

/// A folder for the files of one test.
#[derive(Debug)]
pub struct Files(TempDir);

impl Files {
    /// An empty folder.
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file and returns its path.
    pub fn put(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_string()
    }
}

impl Default for Files {
    fn default() -> Self {
        Self::new()
    }
}

/// Configuration space of the NVMe disk.
pub fn nvme_config(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut put = |at: usize, with: &[u8]| {
        if let Some(place) = bytes.get_mut(at..at + with.len()) {
            place.copy_from_slice(with);
        }
    };
    put(0x00, &[0x36, 0x1b, 0x01, 0x00, 0x06, 0x04, 0x10, 0x00]);
    put(0x10, &[0x04, 0x00, 0xc0, 0xf7]);
    put(0x34, &[0x40]);
    put(0x40, &[0x01, 0xb0]);
    put(
        0xb0,
        &[0x11, 0x00, 0x20, 0x80, 0x00, 0x20, 0, 0, 0x00, 0x28, 0, 0],
    );
    bytes
}

/// The bytes as `lspci -x` prints them.
pub fn dump(bytes: &[u8]) -> String {
    let lines = bytes.chunks(16).enumerate().map(|(n, line)| {
        let line: String = line.iter().map(|byte| format!(" {byte:02x}")).collect();
        format!("{:02x}:{line}\n", n * 16)
    });
    lines.collect()
}

/// A TDISP report: ranges as first page, number of pages and attributes.
pub fn report(ranges: &[(u64, u32, u32)]) -> Vec<u8> {
    let mut bytes = vec![0; 12];
    bytes.extend(u32::try_from(ranges.len()).unwrap().to_le_bytes());
    for (first_page, pages, attributes) in ranges {
        bytes.extend(first_page.to_le_bytes());
        bytes.extend(pages.to_le_bytes());
        bytes.extend(attributes.to_le_bytes());
    }
    bytes.extend([0; 4]);
    bytes
}

/// The notes of the BAR with number `bar`.
pub fn notes(answer: &Value, bar: u64) -> Vec<String> {
    let of_bar = |each: &&Value| each["bar"] == bar;
    let bars = answer["bars"].as_array().unwrap();
    let found = bars.iter().find(of_bar).unwrap();
    let notes = found["notes"].as_array().unwrap().iter();
    notes
        .map(|note| note.as_str().unwrap().to_string())
        .collect()
}

/// The pieces of a report in JSON, a line each.
pub fn lines(answer: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    for bar in answer["bars"].as_array().unwrap() {
        for piece in bar["pieces"].as_array().unwrap() {
            let text = |key: &str| piece[key].as_str().unwrap().to_string();
            let line = [text("offset"), text("size"), text("access")].join(" ");
            lines.push(format!("{} {line}", bar["bar"]));
        }
    }
    lines
}
