// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The report of a TEE device interface, as bytes: a device would send the same.

use vfio_private::BarIndex;

use super::spec::Bar;

const PAGE: u64 = 4096;
/// `IS_NON_TEE_MEM`.
const NON_TEE: u32 = 1 << 2;

/// The `DEVICE_INTERFACE_REPORT` with the private and shared ranges of these BARs, with a reporting
/// offset of 0.
pub fn tdi_report<'a>(bars: impl Iterator<Item = (BarIndex, &'a Bar)>) -> Vec<u8> {
    let ranges = bars.flat_map(|(index, bar)| {
        let id = u32::from(index.get()) << 16;
        let private = bar.private.iter().map(move |range| (range, id));
        let shared = bar.shared.iter().map(move |range| (range, id | NON_TEE));
        private.chain(shared)
    });
    let ranges: Vec<[u8; 16]> = ranges
        .map(|(&range, attributes)| encode(range, attributes))
        .collect();
    // Interface info, MSI-X, LNR and TPH control: none of it.
    let mut report = vec![0; 12];
    report.extend(
        u32::try_from(ranges.len())
            .unwrap_or(u32::MAX)
            .to_le_bytes(),
    );
    report.extend(ranges.concat());
    // No device-specific bytes.
    report.extend(0_u32.to_le_bytes());
    report
}

fn encode((offset, size): (u64, u64), attributes: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    let (first, rest) = bytes.split_at_mut(8);
    let (pages, last) = rest.split_at_mut(4);
    first.copy_from_slice(&(offset / PAGE).to_le_bytes());
    // BARs have at most 4 TiB.
    pages.copy_from_slice(&u32::try_from(size / PAGE).unwrap_or(u32::MAX).to_le_bytes());
    last.copy_from_slice(&attributes.to_le_bytes());
    bytes
}
