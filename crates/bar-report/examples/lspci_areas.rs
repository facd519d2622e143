// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Prints the areas of a device's BARs by the output of `lspci -vv`: what a VMM maps into a guest,
//! and what it traps. The device can be another machine's.
//!
//!     sudo lspci -vv -s 01:00.0 > disk.txt
//!     cargo run --example lspci_areas disk.txt [4096|16384|65536]
//!
//! Without a file, the text is part of this one. The second argument is the host's page size.

use std::error::Error;
use std::fs;

use bar_report::{Reader, RegionList};
use vfio_private::areas::BarAreas;
use vfio_private::{PageSize, Policy};

/// A disk with its table off the page boundaries.
const DISK: &str = "\
21:00.0 Non-Volatile memory controller: Example Corp NVMe SSD (prog-if 02 [NVM Express])
    Control: I/O- Mem+ BusMaster+ SpecCycle- MemWINV- VGASnoop- ParErr- Stepping-
    Status: Cap+ 66MHz- UDF- FastB2B- ParErr- DEVSEL=fast >TAbort- <TAbort- <MAbort-
    Region 0: Memory at c6710000 (64-bit, non-prefetchable) [size=64K]
    Capabilities: [b0] MSI-X: Enable- Count=129 Masked-
        Vector table: BAR=0 offset=00005200
        PBA: BAR=0 offset=0000d600
    Kernel driver in use: vfio-pci
";

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (name, text) = match arguments.next() {
        Some(file) => (file.clone(), fs::read_to_string(file)?),
        None => ("the built-in text".into(), DISK.into()),
    };
    let page = arguments.next().as_deref().unwrap_or("4096").parse()?;
    let page = PageSize::new(page)?;

    let device = Reader::new().lspci(&name, &text, None)?;
    let bars = device.bars(&RegionList::unknown())?;
    println!("Device in {name}, on a host with pages of {page}");
    for bar in bars.bars() {
        let areas = BarAreas::carve(&bar.input(), page, Policy::new())?;
        println!("\n{}, {:#x} bytes", areas.bar().index(), areas.bar().size());
        for area in areas.mapped() {
            println!("  map   {} as one memslot", area.pages().dashed());
        }
        for piece in areas.trapped() {
            println!("  trap  {}: {}", piece.range().dashed(), piece.reasons());
        }
        let direct: u64 = areas.mapped().map(|area| area.size()).sum();
        println!("  the guest reaches {direct:#x} bytes without an exit");
    }
    println!("\nVFIO was not asked what it lets userspace map: each BAR is taken as mappable.");
    Ok(())
}
