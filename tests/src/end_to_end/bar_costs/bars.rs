// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The BARs to measure: the memory of ivshmem devices, from which a guest can
//! load without effect.

use std::fs;
use std::path::Path;

use vfio_private::AddrRange;
use vfio_private::device::PciAddress;

use super::at;

/// The devices that vfio-pci has.
const BOUND: &str = "/sys/bus/pci/drivers/vfio-pci";
/// The number of ivshmem's BAR of memory.
const NUMBER: u32 = 2;
/// The smallest BAR to measure. The tests' own ivshmem has 1 MiB.
const LEAST: u64 = 2 << 20;

/// A BAR of plain memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct MemoryBar {
    pub(super) device: PciAddress,
    pub(super) number: u32,
    pub(super) size: u64,
}

impl MemoryBar {
    pub(super) fn extent(self) -> Result<AddrRange, String> {
        AddrRange::new(0, self.size.into()).ok_or_else(|| "a BAR without bytes".into())
    }
}

/// All such BARs, by their size.
///
/// # Errors
/// There is none.
pub(super) fn largest_last() -> Result<Vec<MemoryBar>, String> {
    let entries = fs::read_dir(BOUND).map_err(at(BOUND))?;
    let bar = |folder: &Path| {
        let device = folder.file_name()?.to_str()?.parse().ok()?;
        let id = |file| fs::read_to_string(folder.join(file)).ok();
        if id("vendor")?.trim() != "0x1af4" || id("device")?.trim() != "0x1110" {
            return None;
        }
        let file = folder.join(format!("resource{NUMBER}"));
        let size = fs::metadata(file).ok()?.len();
        (size >= LEAST).then_some(MemoryBar {
            device,
            number: NUMBER,
            size,
        })
    };
    let entries = entries.flatten();
    let mut bars: Vec<MemoryBar> = entries.filter_map(|entry| bar(&entry.path())).collect();
    bars.sort_by_key(|bar| bar.size);
    match bars.is_empty() {
        true => Err("no ivshmem device with 2 MiB or more is bound to vfio-pci".into()),
        false => Ok(bars),
    }
}
