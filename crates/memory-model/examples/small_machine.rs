// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The memory of a small machine: the tree of regions, the flat view, who answers an
//! access, and a BAR that the guest has accepted. It needs no `/dev/kvm`.
//!
//! `cargo run -p memory-model --all-features --example small_machine`

use std::error::Error;
use std::fs::File;
use std::sync::Arc;

use memory_model::{
    AccessDirection, AddrRange, FileSlice, HostMemory, Memory, MemoryModel, PrivateMmio, Region,
    Responder,
};

/// What a lookup returns: a VMM has its devices here.
#[derive(Debug)]
enum Device {
    None,
    Serial,
    Accelerator,
}

fn main() -> Result<(), Box<dyn Error>> {
    // A VMM has an mmap here. Nothing accesses this memory, so it has no bytes.
    let host = HostMemory::placeholder(0x10_0000).ok_or("empty")?;
    // A VMM has a dma-buf here, which VFIO exports. The host never maps it.
    let file = Arc::new(File::open("/dev/null")?);
    let registers = PrivateMmio::new(FileSlice::new(file, 0, 0x4000).ok_or("empty")?);

    let mut model = MemoryModel::new();
    let mut t = model.transaction();
    let memory = t.add(Region::container("memory", 1 << 64).with_handle(Device::None))?;
    let ram = t.add(Region::ram("ram", Memory::host_only(host)).with_handle(Device::None))?;
    let serial = t.add(Region::mmio("serial", 8).with_handle(Device::Serial))?;
    let window = t.add(Region::container("window", 0x1000_0000).with_handle(Device::None))?;
    let bar = Region::private_mmio("bar", registers).with_handle(Device::Accelerator);
    let bar = t.add(bar)?;
    t.place(ram, memory, 0, 0)?;
    // Over the RAM: the higher priority wins.
    t.place(serial, memory, 0x3f8, 1)?;
    t.place(window, memory, 0xe000_0000, 0)?;
    // At an offset in the window.
    t.place(bar, window, 0x10_0000, 0)?;
    t.commit()?;
    let space = model.add_space("memory", memory)?;

    println!("The tree:");
    for (depth, id) in model.tree().walk(memory) {
        let place = model.tree().place(id)?;
        let at = place.map_or(0, |place| place.address);
        let region = model.tree().region(id)?;
        let (name, size) = (region.name(), region.size());
        let indent = " ".repeat(2 * depth + 2);
        println!("{indent}{name}: {size:#x} bytes at {at:#x}");
    }
    let print_view = |model: &MemoryModel<Device>| {
        println!("The guest's view:");
        for run in model.view(space).ranges() {
            let (range, name, offset) = (run.range(), run.region().name(), run.offset());
            println!("  {range} {name} + {offset:#x}, {}", run.access());
        }
    };
    print_view(&model);

    println!("A vCPU thread answers exits, without a lock:");
    let view = model.reader(space).snapshot();
    // Four bytes of the serial port's registers and four of the RAM behind them.
    for part in view.access_parts(0x3fc, 8, AccessDirection::Write) {
        let (address, size) = (part.address, part.size);
        match part.responder {
            Responder::Device { run, offset } => {
                let device = run.region().handle();
                println!("  {size} bytes at {address:#x}: device {device:?} + {offset:#x}");
            }
            Responder::Memory { run, offset } => {
                let name = run.region().name();
                println!("  {size} bytes at {address:#x}: memory {name} + {offset:#x}");
            }
            other => println!("  {size} bytes at {address:#x}: {other:?}"),
        }
    }

    println!("The guest accepts one page of the BAR. The VMM tries to move the BAR's window:");
    let page = AddrRange::new(0xe010_0000, 0x1000).ok_or("empty")?;
    model.accept(space, page)?;
    let mut t = model.transaction();
    t.move_to(window, 0xf000_0000)?;
    match t.commit() {
        Ok(()) => return Err("the BAR moved".into()),
        Err(error) => println!("  {error}"),
    }

    println!("The device is reset, so the VMM revokes the page. The window moves:");
    for lost in model.revoke(space, page).iter() {
        println!("  the guest has lost {lost}");
    }
    let mut t = model.transaction();
    t.move_to(window, 0xf000_0000)?;
    t.commit()?;
    print_view(&model);
    Ok(())
}
