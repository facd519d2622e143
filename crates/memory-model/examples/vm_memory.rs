// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A VMM that has a `GuestMemoryMmap` starts with a model, and its devices and loaders
//! keep the crate `vm-memory`. It needs no `/dev/kvm`.
//!
//! `cargo run -p memory-model --all-features --example vm_memory`

use std::error::Error;
use std::sync::Arc;

use linux_loader::cmdline::Cmdline;
use linux_loader::loader::load_cmdline;
use memory_model::{HostMemory, Memory, MemoryModel, PlainMemory, Region, SharedMemoryListener};
use vm_memory::{
    Bytes, GuestAddress, GuestAddressSpace, GuestMemoryBackend, GuestMemoryMmap, MmapRegion,
};

fn main() -> Result<(), Box<dyn Error>> {
    // What the VMM has.
    let guest: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&[
        (GuestAddress(0), 0x8000),
        (GuestAddress(1 << 32), 0x4000),
    ])?;

    let mut model = MemoryModel::new();
    let mut t = model.transaction();
    let memory = t.add(Region::container("memory", 1 << 64))?;
    // One line: each region at its address.
    t.add_guest_memory(memory, &guest, &())?;
    let registers = t.add(Region::mmio("registers", 0x1000))?;
    t.place(registers, memory, 0x2000, 1)?;
    t.commit()?;
    let space = model.add_space("memory", memory)?;
    println!("The guest's view:");
    for run in model.view(space).ranges() {
        println!(
            "  {} {}, {}",
            run.range(),
            run.region().name(),
            run.access()
        );
    }

    println!("A loader takes a list of regions:");
    let plain = PlainMemory::<()>::new(&model.view(space))?;
    let mut line = Cmdline::new(64)?;
    line.insert_str("console=ttyS0")?;
    load_cmdline(&plain, GuestAddress(0x4000), &line)?;
    let mut text = [0; 13];
    guest.read_slice(&mut text, GuestAddress(0x4000))?;
    let (count, text) = (plain.num_regions(), String::from_utf8_lossy(&text));
    println!("  {count} regions; the command line is in the VMM's own memory, too: {text}");
    let refused = load_cmdline(&plain, GuestAddress(0x2000), &line);
    println!(
        "  a command line where the registers are: {:?}",
        refused.map_err(|e| e.to_string())
    );

    println!("Devices take a GuestAddressSpace, which follows the view:");
    let listener = Arc::new(SharedMemoryListener::<MmapRegion, ()>::of_owners());
    model.add_listener(space, 0, listener.clone())?;
    let devices = listener.memory();
    let print = |address| match devices.memory().read_obj::<u8>(GuestAddress(address)) {
        Ok(byte) => println!("  a device reads {byte} at {address:#x}"),
        Err(error) => println!("  a device reads nothing at {address:#x}: {error}"),
    };
    print(0x4000);
    print(0x2000);
    println!("The VMM plugs RAM in, and removes the registers:");
    let mapping = Arc::new(MmapRegion::<()>::new(0x4000)?);
    let host = HostMemory::of_mmap(mapping).ok_or("not mapped")?;
    let mut t = model.transaction();
    let plugged = t.add(Region::ram("plugged", Memory::host_only(host)))?;
    t.place(plugged, memory, 2 << 32, 0)?;
    t.unplace(registers)?;
    t.remove(registers)?;
    t.commit()?;
    print(2 << 32);
    print(0x2000);
    Ok(())
}
