// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What devices may access through `vm-memory`. Any other access fails as a whole.

use crate::common;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use common::mapped::{
    BAR, BUSY_FLASH, DEVICE, FLASH, LAST, MMIO, MORE, Mapped, PRIVATE, RAM, READONLY, ROM, Shared,
    page, real,
};
use common::{bytes, ram};
use memory_model::{AddrRange, PageSet, PageState, Region, SharedMemory, StateError};
use vm_memory::{
    Bytes, GuestAddress, GuestMemory, GuestMemoryError, GuestMemoryResult, MmapRegion, Permissions,
};

const NOTHING: u64 = 0xc000;

/// Every way to read 8 bytes, by name, and whether it went well.
fn reads(memory: &Shared, at: u64) -> Vec<(&'static str, GuestMemoryResult<usize>)> {
    let at = GuestAddress(at);
    let mut buffer = [0; 8];
    let mut sink = Vec::new();
    let mut all = Vec::new();
    let slices = memory.get_slices(at, 8, Permissions::Read);
    vec![
        ("read", memory.read(&mut buffer, at)),
        ("read_slice", memory.read_slice(&mut buffer, at).map(|()| 8)),
        ("read_obj", memory.read_obj::<u64>(at).map(|_| 8)),
        (
            "write_volatile_to",
            memory.write_volatile_to(at, &mut sink, 8),
        ),
        (
            "write_all_volatile_to",
            memory.write_all_volatile_to(at, &mut all, 8).map(|()| 8),
        ),
        (
            "get_slices",
            slices.map(|s| s.map(|slice| slice.unwrap().len()).sum()),
        ),
    ]
}

/// Every way to write 8 bytes, likewise.
fn writes(memory: &Shared, at: u64) -> Vec<(&'static str, GuestMemoryResult<usize>)> {
    let at = GuestAddress(at);
    let buffer = [0xab; 8];
    let slices = memory.get_slices(at, 8, Permissions::ReadWrite);
    vec![
        ("write", memory.write(&buffer, at)),
        ("write_slice", memory.write_slice(&buffer, at).map(|()| 8)),
        ("write_obj", memory.write_obj(0_u64, at).map(|()| 8)),
        (
            "read_volatile_from",
            memory.read_volatile_from(at, &mut buffer.as_slice(), 8),
        ),
        (
            "read_exact_volatile_from",
            memory
                .read_exact_volatile_from(at, &mut buffer.as_slice(), 8)
                .map(|()| 8),
        ),
        (
            "get_slices",
            slices.map(|s| s.map(|slice| slice.unwrap().len()).sum()),
        ),
    ]
}

#[track_caller]
fn all_whole(results: Vec<(&str, GuestMemoryResult<usize>)>) {
    for (call, result) in results {
        assert!(matches!(result, Ok(8)), "{call}: {result:?}");
    }
}

#[track_caller]
fn all_refused(results: Vec<(&str, GuestMemoryResult<usize>)>, at: u64) {
    for (call, result) in results {
        match result {
            Err(GuestMemoryError::InvalidGuestAddress(found)) => assert_eq!(found.0, at, "{call}"),
            other => panic!("{call}: {other:?}"),
        }
    }
}

#[track_caller]
fn all_forbidden(results: Vec<(&str, GuestMemoryResult<usize>)>) {
    for (call, result) in results {
        match result {
            Err(GuestMemoryError::IOError(e)) if e.kind() == io::ErrorKind::PermissionDenied => {}
            other => panic!("{call}: {other:?}"),
        }
    }
}

fn can(memory: &Shared, at: u64, count: usize) -> [bool; 2] {
    [Permissions::Read, Permissions::Write].map(|p| memory.check_range(GuestAddress(at), count, p))
}

#[test]
fn shared_ram_is_read_and_written() {
    let memory = Mapped::new().shared();
    for at in [
        RAM,
        PRIVATE - 8,
        PRIVATE + 0x1000,
        ROM - 8,
        MORE,
        LAST,
        u64::MAX - 7,
    ] {
        all_whole(writes(&memory, at));
        all_whole(reads(&memory, at));
        assert_eq!(can(&memory, at, 8), [true, true]);
        memory.write_obj(at, GuestAddress(at)).unwrap();
        assert_eq!(memory.read_obj::<u64>(GuestAddress(at)).unwrap(), at);
    }
    let (at, order) = (GuestAddress(MORE), Ordering::SeqCst);
    memory.store(7_u32, at, order).unwrap();
    assert_eq!(memory.load::<u32>(at, order).unwrap(), 7);
}

#[test]
fn the_bytes_are_those_that_the_view_shows() {
    let mapped = Mapped::new();
    let memory = mapped.shared();
    memory
        .write_obj(0x1234_u32, GuestAddress(RAM + 0x3010))
        .unwrap();
    // Another way to the same bytes, at another offset of a run.
    let view = mapped.m.model.view(mapped.m.space);
    let run = view.find(RAM + 0x3010).unwrap();
    let owner = match run.backing() {
        memory_model::Backing::Memory(memory) => memory.host().owner().clone(),
        other => panic!("{other:?}"),
    };
    let mapping: Arc<MmapRegion> = owner.downcast().unwrap();
    let slice = vm_memory::VolatileMemory::get_slice(&*mapping, 0x3010, 4).unwrap();
    assert_eq!(slice.read_obj::<u32>(0).unwrap(), 0x1234);
}

#[test]
fn rom_is_read_and_not_written() {
    let memory = Mapped::new().shared();
    for at in [ROM, ROM + 0xff8, FLASH, READONLY] {
        all_whole(reads(&memory, at));
        all_forbidden(writes(&memory, at));
        assert_eq!(can(&memory, at, 8), [true, false]);
        assert!(
            memory
                .store(1_u8, GuestAddress(at), Ordering::SeqCst)
                .is_err()
        );
        assert_eq!(memory.read_obj::<u64>(GuestAddress(at)).unwrap(), 0);
    }
}

#[test]
fn what_is_private_or_a_device_or_nothing_is_not_reached() {
    let memory = Mapped::new().shared();
    for at in [
        PRIVATE,
        BAR,
        BUSY_FLASH,
        DEVICE,
        MMIO,
        NOTHING,
        LAST - 0x1000,
    ] {
        all_refused(reads(&memory, at), at);
        all_refused(writes(&memory, at), at);
        for count in [1, 8, 0x1000] {
            assert_eq!(can(&memory, at, count), [false, false]);
        }
        let order = Ordering::SeqCst;
        assert!(memory.load::<u8>(GuestAddress(at), order).is_err());
        assert!(memory.store(1_u8, GuestAddress(at), order).is_err());
    }
}

#[test]
fn an_access_over_a_border_is_an_error_and_touches_nothing() {
    let memory = Mapped::new().shared();
    // From RAM or ROM into what cannot be reached, and out of it.
    for (at, border) in [
        (PRIVATE - 4, PRIVATE),
        (PRIVATE + 0xffc, PRIVATE + 0xffc),
        (BAR - 4, BAR),
        (BAR + 0xffc, BAR + 0xffc),
        (BUSY_FLASH - 4, BUSY_FLASH),
        (READONLY + 0xffc, NOTHING),
        (LAST - 4, LAST - 4),
    ] {
        all_refused(reads(&memory, at), border);
        assert_eq!(can(&memory, at, 8), [false, false]);
    }
    let before = GuestAddress(PRIVATE - 4);
    all_refused(writes(&memory, before.0), PRIVATE);
    assert_eq!(memory.read_obj::<u32>(before).unwrap(), 0);

    // From RAM into ROM: nothing before the border is written either.
    let before = GuestAddress(ROM - 4);
    all_forbidden(writes(&memory, before.0));
    assert_eq!(memory.read_obj::<u64>(before).unwrap(), 0);
}

#[test]
fn an_access_over_a_border_of_memory_and_memory_is_whole() {
    let memory = Mapped::new().shared();
    memory.write_obj(!0_u32, GuestAddress(ROM - 4)).unwrap();
    all_whole(reads(&memory, ROM - 4));
    let both = memory.read_obj::<u64>(GuestAddress(ROM - 4)).unwrap();
    assert_eq!(both, u64::from(u32::MAX));
    // Two regions of two mappings.
    all_whole(reads(&memory, FLASH - 4));
    let slices = memory.get_slices(GuestAddress(FLASH - 4), 8, Permissions::Read);
    let sizes: Vec<_> = slices.unwrap().map(|slice| slice.unwrap().len()).collect();
    assert_eq!(sizes, [4, 4]);
}

#[test]
fn no_bytes_and_too_many_are_no_reason_to_panic() {
    let memory = Mapped::new().shared();
    for at in [RAM, PRIVATE, BAR, NOTHING, u64::MAX] {
        assert_eq!(can(&memory, at, 0), [true, true]);
        assert_eq!(memory.read(&mut [], GuestAddress(at)).unwrap(), 0);
    }
    for at in [1, LAST, u64::MAX] {
        assert_eq!(can(&memory, at, usize::MAX), [false, false]);
    }
    let wraps = memory.read_obj::<u64>(GuestAddress(u64::MAX - 6));
    assert!(matches!(wraps, Err(GuestMemoryError::GuestAddressOverflow)));
}

#[test]
fn a_conversion_changes_what_is_reached_by_all_clones() {
    let memory = Mapped::new().shared();
    let clone = memory.clone();
    memory
        .set_page_state(page(PRIVATE), PageState::Shared)
        .unwrap();
    all_whole(writes(&memory, PRIVATE - 4));
    memory
        .set_page_state(page(RAM), PageState::Private)
        .unwrap();
    all_refused(reads(&memory, RAM), RAM);
    all_refused(reads(&clone, RAM), RAM);
    // It makes nothing reachable that is of the wrong kind.
    memory
        .set_page_state(AddrRange::ALL, PageState::Shared)
        .unwrap();
    all_refused(reads(&memory, BAR), BAR);
    all_whole(reads(&memory, RAM));
    all_whole(reads(&clone, PRIVATE));

    let range = bytes(RAM, 0x800);
    for state in [PageState::Private, PageState::Shared] {
        let refused = memory.set_page_state(range, state);
        assert_eq!(refused, Err(StateError::Unaligned { range }));
    }
}

#[test]
fn a_snapshot_keeps_its_memory_and_another_shows_the_next_view() {
    let mut mapped = Mapped::new();
    let before = mapped.shared();
    let ram = mapped.ram;
    mapped.m.change(|t| {
        t.unplace(ram)?;
        t.remove(ram)
    });
    all_refused(reads(&mapped.shared(), RAM), RAM);
    drop(mapped);
    all_whole(writes(&before, RAM));
}

#[test]
fn there_is_no_list_of_regions_to_go_around_the_checks() {
    assert!(Mapped::new().shared().physical_memory().is_none());
}

#[test]
fn memory_that_is_not_in_its_mapping_is_refused() {
    let mapped = Mapped::new();
    let view = mapped.m.model.view(mapped.m.space);
    let other = Arc::new(MmapRegion::<()>::new(0x1000).unwrap());
    let none = PageSet::new();
    let error = SharedMemory::new(&view, &none, |_| Some(other.clone())).unwrap_err();
    assert_eq!(
        (error.range, error.region.as_str()),
        (bytes(RAM, 0x4000), "ram")
    );

    // An owner of another type: here the made-up memory of other tests.
    let mut mapped = Mapped::new();
    mapped.m.put(ram("made up", 0x1000), NOTHING);
    let view = mapped.m.model.view(mapped.m.space);
    let error = Shared::of_owners(&view, &none).unwrap_err();
    assert_eq!(
        (error.range, error.region.as_str()),
        (page(NOTHING), "made up")
    );
}

#[test]
fn memory_for_which_there_is_no_mapping_is_left_out() {
    let mut mapped = Mapped::new();
    let host = real(0x1000);
    let mapping: Arc<MmapRegion> = host.owner().clone().downcast().unwrap();
    let region = Region::ram("wanted", memory_model::Memory::host_only(host));
    mapped.m.put(region, NOTHING);
    let view = mapped.m.model.view(mapped.m.space);
    let memory = SharedMemory::new(&view, &PageSet::new(), |run| {
        (run.region().name() == "wanted").then(|| mapping.clone())
    });
    let memory = memory.unwrap();
    all_whole(writes(&memory, NOTHING));
    all_refused(reads(&memory, RAM), RAM);
}
