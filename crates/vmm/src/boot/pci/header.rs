// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Configuration space of functions that this VMM emulates itself.

/// Red Hat's, under which QEMU's generic devices are.
const VENDOR: u16 = 0x1b36;

/// Conventional configuration space.
pub(super) type Header = [u8; 256];

/// A header of type 0: no BARs, no capabilities, no interrupt.
pub(super) fn header(device: u16, class: u16) -> Header {
    let mut header = [0; 256];
    header[0..2].copy_from_slice(&VENDOR.to_le_bytes());
    header[2..4].copy_from_slice(&device.to_le_bytes());
    header[0xa..0xc].copy_from_slice(&class.to_le_bytes());
    header
}

/// Fills in the bytes that there are. Extended configuration space is left as it is.
pub(super) fn read(header: &Header, offset: u64, data: &mut [u8]) {
    let offset = usize::try_from(offset).unwrap_or(usize::MAX);
    let there = header.get(offset..).unwrap_or_default();
    for (byte, from) in data.iter_mut().zip(there) {
        *byte = *from;
    }
}
