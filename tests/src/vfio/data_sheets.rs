// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Compares what `vmm bars` prints for a device with its documentation.

use std::iter;

use vfio_private::PageSize;
use vfio_private::device::VfioInterface;
use vfio_private::device::interrupts::InterruptKind;

use super::bars::ask;
use super::{Model, at, same};
use crate::subject::host_pages;

/// The lines that must be printed, and all lines that begin with `BAR`.
struct Sheet {
    bars: &'static [&'static str],
    msix: &'static str,
    /// A piece with its access, on pages of 4 KiB and on larger ones.
    pieces: [&'static [(&'static str, &'static str)]; 2],
    /// The numbers of MSI and MSI-X vectors.
    vectors: [u16; 2],
}

const NO_MSIX: &str = "MSI-X        none found";

/// From the documentation: Intel's datasheet of the 82574 (section 10, with the
/// flash as in QEMU), and the specifications of QEMU's own devices.
fn sheet(model: Model) -> Sheet {
    match model {
        Model::E1000e => Sheet {
            bars: &[
                "BAR 0: memory, 128 KiB (0x20000), 32-bit, non-prefetchable",
                "BAR 1: memory, 128 KiB (0x20000), 32-bit, non-prefetchable",
                "BAR 2: I/O ports, 32 B (0x20)",
                "BAR 3: memory, 16 KiB (0x4000), 32-bit, non-prefetchable",
            ],
            msix: "MSI-X        5 vectors; table 0x0-0x4f of BAR 3, \
                   pending bits (PBA) 0x2000-0x2007 of BAR 3",
            pieces: [
                &[
                    ("0x0-0x1ffff", "shared"),
                    ("0x0-0x1ffff", "shared"),
                    ("0x0-0x1f", "trap"),
                    ("0x0-0xfff", "trap"),
                    ("0x1000-0x1fff", "shared"),
                    ("0x2000-0x2fff", "trap"),
                    ("0x3000-0x3fff", "shared"),
                ],
                &[
                    ("0x0-0x1ffff", "shared"),
                    ("0x0-0x1ffff", "shared"),
                    ("0x0-0x1f", "trap"),
                    ("0x0-0x3fff", "trap"),
                ],
            ],
            vectors: [1, 5],
        },
        Model::Edu => Sheet {
            bars: &["BAR 0: memory, 1 MiB (0x100000), 32-bit, non-prefetchable"],
            msix: NO_MSIX,
            pieces: [&[("0x0-0xfffff", "shared")]; 2],
            vectors: [1, 0],
        },
        Model::Ivshmem => Sheet {
            bars: &[
                "BAR 0: memory, 256 B (0x100), 32-bit, non-prefetchable",
                "BAR 2: memory, 1 MiB (0x100000), 64-bit, prefetchable",
            ],
            msix: NO_MSIX,
            pieces: [&[("0x0-0xff", "trap"), ("0x0-0xfffff", "shared")]; 2],
            vectors: [0, 0],
        },
        Model::Nvme => Sheet {
            bars: &["BAR 0: memory, 16 KiB (0x4000), 64-bit, non-prefetchable"],
            msix: "MSI-X        65 vectors; table 0x2000-0x240f of BAR 0, \
                   pending bits (PBA) 0x3000-0x300f of BAR 0",
            pieces: [
                &[
                    ("0x0-0x1fff", "shared"),
                    ("0x2000-0x2fff", "trap"),
                    ("0x3000-0x3fff", "trap"),
                ],
                &[("0x0-0x3fff", "trap")],
            ],
            vectors: [0, 65],
        },
        Model::TestDev => Sheet {
            bars: &[
                "BAR 0: memory, 4 KiB (0x1000), 32-bit, non-prefetchable",
                "BAR 1: I/O ports, 256 B (0x100)",
            ],
            msix: NO_MSIX,
            pieces: [
                &[("0x0-0xfff", "shared"), ("0x0-0xff", "trap")],
                &[("0x0-0xfff", "trap"), ("0x0-0xff", "trap")],
            ],
            vectors: [0, 0],
        },
    }
}

/// Requires that it prints what the documentation says.
///
/// # Errors
/// The output, if it differs.
pub fn printed(model: Model) -> Result<(), String> {
    let text = ask(model)?.to_text();
    let Sheet {
        bars,
        msix,
        pieces,
        vectors,
    } = sheet(model);
    let found: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("BAR"))
        .collect();
    same("BARs", found.as_slice(), bars)?;
    // The line goes on below where it reaches 80 columns.
    let mut lines = text.lines().skip_while(|line| !line.starts_with("MSI-X"));
    let first = lines.next().unwrap_or_default();
    let more = lines.take_while(|line| line.starts_with("   "));
    let found: Vec<&str> = iter::once(first)
        .chain(more)
        .flat_map(str::split_whitespace)
        .collect();
    let expected: Vec<&str> = msix.split_whitespace().collect();
    same("MSI-X", found, expected)?;
    let rows = text.lines().filter(|line| line.starts_with("  0x"));
    let rows = rows.filter(|line| !line.contains("reach the guest directly"));
    let found: Vec<(&str, &str)> = rows
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let bytes = words.next()?;
            let accesses = ["private", "shared", "trap", "blocked"];
            Some((bytes, words.find(|word| accesses.contains(word))?))
        })
        .collect();
    let pieces = pieces[usize::from(host_pages() > PageSize::Size4K)];
    same("pieces", found.as_slice(), pieces)?;
    let device = model.open(VfioInterface::LegacyGroup)?;
    for (kind, due) in [InterruptKind::Msi, InterruptKind::Msix]
        .into_iter()
        .zip(vectors)
    {
        let info = device.interrupt_info(kind).map_err(at(kind))?;
        same(&format!("vectors of {kind}"), info.vectors, due)?;
    }
    Ok(())
}
