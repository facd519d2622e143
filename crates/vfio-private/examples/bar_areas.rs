// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Prints the areas of a PCI device's BARs: what a VMM maps into the guest, and what it traps.
//!
//!     cargo run --example bar_areas [/sys/bus/pci/devices/0000:01:00.0 [4096|16384|65536]]
//!
//! Without a folder, it takes a device of this machine, or else an NVMe disk that is part of this
//! file. Linux shows all of configuration space only to root. Without it, MSI-X cannot be located.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use vfio_private::areas::BarAreas;
use vfio_private::config::ConfigSpace;
use vfio_private::{Bar, BarIndex, BarInput, BarKind, Msix, PageSize, Policy, Region};

/// A name, the BARs and the MSI-X structures.
type Device = (String, Vec<Bar>, Option<Msix>);

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (name, bars, msix) = match arguments.next() {
        Some(folder) => from_sysfs(Path::new(&folder))?,
        None => any_of_this_machine().map_or_else(built_in, Ok)?,
    };
    let page = arguments.next().as_deref().unwrap_or("4096").parse()?;
    let page = PageSize::new(page)?;
    println!("{name}, on a host with pages of {page}");
    for bar in bars {
        // A VMM asks VFIO for the region. Here, each BAR is taken as mappable as a whole.
        let region = Region::mappable();
        let input = BarInput::new(bar, &region).with_msix(msix);
        let areas = BarAreas::carve(&input, page, Policy::new())?;

        println!("\n{}, {:#x} bytes", bar.index(), bar.size());
        for piece in areas.all() {
            println!("  {piece}");
        }
        let (slots, mappings) = (areas.mapped().count(), areas.dma().count());
        println!("  memslots: {slots}, DMA mappings: {mappings}");
        match areas.find(bar.size() - 4, 8) {
            Ok(piece) => println!("  8 bytes at the end: {}", piece.access()),
            Err(error) => println!("  8 bytes across the end: {error}"),
        }
    }
    Ok(())
}

fn from_sysfs(folder: &Path) -> Result<Device, Box<dyn Error>> {
    let config = fs::read(folder.join("config"))?;
    let msix = ConfigSpace::new(&config)?.msix()?;
    // The first six lines are the BARs: first address, last address, flags.
    let resource = fs::read_to_string(folder.join("resource"))?;
    let mut bars = Vec::new();
    for (index, line) in (0..BarIndex::COUNT).zip(resource.lines()) {
        let words = line.split_whitespace();
        let numbers = words.map(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16));
        let numbers: Vec<u64> = numbers.collect::<Result<_, _>>()?;
        let [first, last, flags] = numbers[..] else {
            return Err(format!("resource: '{line}' has not three numbers").into());
        };
        let kind = match flags & 0x300 {
            0x100 => BarKind::Io,
            0x200 => BarKind::Memory,
            _ => continue,
        };
        let size = last.wrapping_sub(first).wrapping_add(1);
        bars.push(Bar::new(BarIndex::new(index)?, kind, size)?);
    }
    Ok((folder.display().to_string(), bars, msix))
}

/// The first device with MSI-X, if this process may read its configuration space.
fn any_of_this_machine() -> Option<Device> {
    let folders = fs::read_dir("/sys/bus/pci/devices").ok()?;
    let mut folders: Vec<PathBuf> = folders.flatten().map(|entry| entry.path()).collect();
    folders.sort();
    let mut devices = folders.iter().filter_map(|folder| from_sysfs(folder).ok());
    devices.find(|(_, _, msix)| msix.is_some())
}

fn built_in() -> Result<Device, Box<dyn Error>> {
    let bar = Bar::new(BarIndex::new(0)?, BarKind::Memory, 0x4000)?;
    // Message control and the two places, as in the MSI-X capability: 33 vectors.
    let msix = Msix::from_registers(0x8020, 0x2000, 0x2800)?;
    Ok(("A built-in NVMe disk".into(), vec![bar], Some(msix)))
}
