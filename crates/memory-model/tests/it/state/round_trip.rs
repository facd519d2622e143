// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A restored model shows what the saved one showed.

use crate::common;

use std::convert::Infallible;

use common::{bell, bytes, file, guest_memfd_ram, memory, private_mmio, ram, show, switches};
use memory_model::state::{ModelState, RegionState, Restore, Restored, SavedKind};
use memory_model::{
    Backing, DirtyClients, EventFd, GuestMemfdSides, Kind, Memory, MemoryModel, PageState,
    PrivateMmio, Region, RegionId, SpaceId, Transaction, Trigger,
};
use proptest::prelude::*;
use proptest::sample::select;

/// Supplies memory at made-up addresses.
pub struct Anything;

pub fn backing(saved: &RegionState<String>) -> Backing {
    let size = u64::try_from(saved.size()).unwrap_or(1 << 63);
    let with = |sides: Option<GuestMemfdSides>| match sides {
        None => Backing::Memory(memory(size)),
        Some(sides) => {
            let memory = Memory::with_guest_memfd(common::host(size), file(size), sides);
            Backing::Memory(memory.unwrap())
        }
    };
    match saved.kind() {
        SavedKind::Ram { sides } | SavedKind::Rom { sides } | SavedKind::RomDevice { sides } => {
            with(sides)
        }
        SavedKind::DeviceRam => Backing::DeviceRam(common::host(size)),
        SavedKind::PrivateMmio => Backing::PrivateMmio(PrivateMmio::new(file(size))),
        _ => Backing::Nothing,
    }
}

impl Restore<String, ()> for Anything {
    type Error = Infallible;

    fn region(&mut self, saved: &RegionState<String>) -> Result<((), Backing), Infallible> {
        assert_eq!(saved.name(), saved.data());
        Ok(((), backing(saved)))
    }

    fn event_fd(
        &mut self,
        _: &RegionState<String>,
        at: u64,
        _: Trigger,
    ) -> Result<Option<EventFd>, Infallible> {
        let fd = i32::try_from(at).unwrap();
        Ok(Some(EventFd::new(fd, std::sync::Arc::new(()))))
    }
}

/// Saves a model as text.
pub fn save(model: &mut MemoryModel) -> String {
    let state = model.state(|_, region| region.name().to_string());
    serde_json::to_string(&state).unwrap()
}

fn restore(text: &str) -> Restored<()> {
    let state: ModelState<String> = serde_json::from_str(text).unwrap();
    state.restore(&mut Anything).unwrap()
}

fn spaces(model: &MemoryModel) -> Vec<SpaceId> {
    model.spaces().map(|(id, ..)| id).collect()
}

/// Everything that lookups and listeners see of a model.
fn seen(model: &MemoryModel) -> Vec<String> {
    let spaces = spaces(model);
    let each = spaces.iter().map(|&space| {
        format!(
            "{:?} {:?} {:?} {:?} {:?} {}",
            show(&model.view(space)),
            model.private(space),
            model.accepted(space),
            model.ioeventfds(space),
            model.coalesced(space),
            model.state_limit(space),
        )
    });
    let all = [format!("{:?}", model.global_dirty_logging())];
    all.into_iter().chain(each).collect()
}

#[test]
fn a_model_with_one_of_everything_is_restored() {
    let mut model = MemoryModel::new();
    let mut t = model.transaction();
    let root = t.add(Region::container("root", 1 << 64)).unwrap();
    let low = t.add(guest_memfd_ram("low", 0x8000, GuestMemfdSides::Both));
    let low = low.unwrap();
    let rom = t.add(Region::rom("rom", memory(0x1000))).unwrap();
    let flash = Region::rom_device("flash", memory(0x1000));
    let flash = t
        .add(flash.with_switches(switches(|s| s.direct_reads = false)))
        .unwrap();
    let bar = t.add(private_mmio("bar", 0x4000)).unwrap();
    let device = t.add(Region::device_ram("device", common::host(0x1000)));
    let device = device.unwrap();
    let mmio = t.add(Region::mmio("mmio", 0x1000)).unwrap();
    let alias = t.add(Region::alias("alias", low, 0x1000, 0x2000)).unwrap();
    let of_alias = t.add(Region::alias("of alias", alias, 0x800, 0x1000));
    let of_alias = of_alias.unwrap();
    let hole = t.add(Region::reservation("hole", 0x1000)).unwrap();
    let unplaced = t.add(ram("unplaced", 0x1000)).unwrap();
    for (region, at, priority) in [
        (low, 0, 0),
        (rom, 0x1000, 1),
        (flash, 0x2000, 1),
        (bar, 0xe000_0000, 0),
        (device, 0xf000_0000, 0),
        (mmio, 0x7000, 5),
        (alias, 0x10_0000, 0),
        (of_alias, 0x20_0000, 0),
        (hole, 0x6000, -1),
    ] {
        t.place(region, root, at, priority).unwrap();
    }
    t.attach_ioeventfd(mmio, bell(0x10, 0x10)).unwrap();
    t.attach_coalesced(mmio, bytes(0x20, 8)).unwrap();
    t.set_dirty_logging(unplaced, DirtyClients::VGA).unwrap();
    t.set_readonly(device, true).unwrap();
    t.set_global_dirty_logging(DirtyClients::MIGRATION);
    t.commit().unwrap();
    let space = model.add_space("memory", root).unwrap();
    model.add_space("io", unplaced).unwrap();
    model.set_state_limit(space, 1 << 20);
    let set = |model: &mut MemoryModel, start, state| {
        model.set_page_state(space, bytes(start, 0x1000), state)
    };
    set(&mut model, 0x3000, PageState::Private).unwrap();
    set(&mut model, 0x4000, PageState::Private).unwrap();
    model.accept(space, bytes(0xe000_1000, 0x2000)).unwrap();
    // Private pages whose memory has moved away.
    let mut t = model.transaction();
    t.move_to(low, 0x100_0000).unwrap();
    t.commit().unwrap();

    let text = save(&mut model);
    let mut restored = restore(&text);
    assert_eq!(seen(&restored.model), seen(&model));
    assert_eq!(restored.regions.len(), 11);
    assert_eq!(restored.spaces[1].1, "io");
    assert_eq!(save(&mut restored.model), text);
    // Accepted registers are still fixed.
    let bar = restored.regions.iter().find(|id| {
        let region = restored.model.tree().region(**id).unwrap();
        matches!(region.kind(), Kind::PrivateMmio(_))
    });
    let bar = *bar.unwrap();
    let mut t = restored.model.transaction();
    t.move_to(bar, 0xd000_0000).unwrap();
    assert!(t.commit().is_err());
}

#[test]
fn a_transaction_that_was_forgotten_is_not_saved() {
    let mut model = MemoryModel::new();
    let mut t = model.transaction();
    t.add(Region::container("kept", 1)).unwrap();
    t.commit().unwrap();
    let mut t = model.transaction();
    t.add(Region::container("forgotten", 1)).unwrap();
    std::mem::forget(t);
    let state = model.state(|_, region| region.name().to_string());
    assert_eq!(state.regions().len(), 1);
}

/// A step of a random model. Numbers are of regions, as far as there are any.
#[derive(Clone, Debug)]
enum Step {
    Add(usize),
    Alias(usize, u64),
    Place(usize, usize, u64, i32),
    Unplace(usize),
    Remove(usize),
    Switch(usize, bool),
    Log(usize),
    Convert(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let n = 0..12_usize;
    let priority = select(vec![0, 0, 0, 1]);
    prop_oneof![
        3 => (0..5_usize).prop_map(Step::Add),
        2 => (n.clone(), 0..4_u64).prop_map(|(n, at)| Step::Alias(n, at)),
        6 => (n.clone(), n.clone(), 0..8_u64, priority)
            .prop_map(|(n, parent, at, priority)| Step::Place(n, parent, at, priority)),
        1 => n.clone().prop_map(Step::Unplace),
        1 => n.clone().prop_map(Step::Remove),
        1 => (n.clone(), any::<bool>()).prop_map(|(n, on)| Step::Switch(n, on)),
        1 => n.prop_map(Step::Log),
        2 => (0..8_u64).prop_map(Step::Convert),
    ]
}

const PAGE: u64 = 0x1000;

/// Makes a step; many are refused.
fn make(t: &mut Transaction<'_, ()>, ids: &mut Vec<RegionId>, step: &Step) {
    let name = format!("r{}", ids.len());
    let at = |n: usize| ids.get(n % ids.len().max(1)).copied();
    match *step {
        Step::Add(kind) => {
            let size = 2 * PAGE;
            let region = match kind {
                0 => Region::container(&name, u128::from(4 * size)),
                1 => ram(&name, size),
                2 => Region::mmio(&name, size.into()),
                3 => guest_memfd_ram(&name, size, GuestMemfdSides::Private),
                _ => private_mmio(&name, size),
            };
            ids.push(t.add(region).unwrap());
        }
        Step::Alias(n, offset) => {
            if let Some(target) = at(n) {
                let alias = Region::alias(&name, target, offset * PAGE, (3 * PAGE).into());
                ids.push(t.add(alias).unwrap());
            }
        }
        Step::Place(n, parent, address, priority) => {
            if let (Some(region), Some(parent)) = (at(n), at(parent)) {
                let _ = t.place(region, parent, address * PAGE, priority);
            }
        }
        Step::Unplace(n) => drop(at(n).map(|id| t.unplace(id))),
        Step::Remove(n) => {
            if let Some(id) = at(n) {
                if t.remove(id).is_ok() {
                    ids.retain(|other| *other != id);
                }
            }
        }
        Step::Switch(n, on) => drop(at(n).map(|id| t.set_enabled(id, on))),
        Step::Log(n) => drop(at(n).map(|id| t.set_dirty_logging(id, DirtyClients::VGA))),
        Step::Convert(_) => {}
    }
}

proptest! {
    #[test]
    fn a_random_model_is_the_same_after_it_was_saved_and_restored(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut model = MemoryModel::new();
        let mut t = model.transaction();
        let root = t.add(Region::container("root", 1 << 64)).unwrap();
        t.commit().unwrap();
        let space = model.add_space("memory", root).unwrap();
        let mut ids = vec![root];
        for step in &steps {
            if let Step::Convert(page) = step {
                let page = bytes(page * PAGE, PAGE.into());
                let _ = model.set_page_state(space, page, PageState::Private);
                continue;
            }
            let mut t = model.transaction();
            make(&mut t, &mut ids, step);
            t.commit().unwrap();
        }
        let text = save(&mut model);
        let mut restored = restore(&text);
        prop_assert_eq!(seen(&restored.model), seen(&model));
        prop_assert_eq!(save(&mut restored.model), text);
        restored.model.validate().unwrap();
    }
}

#[test]
fn a_limit_that_was_lowered_below_the_state_is_restored_and_holds() {
    let mut model = MemoryModel::new();
    let mut t = model.transaction();
    let root = t.add(Region::container("root", 1 << 64)).unwrap();
    let memory = guest_memfd_ram("ram", 0x8000, GuestMemfdSides::Both);
    let memory = t.add(memory).unwrap();
    t.place(memory, root, 0, 0).unwrap();
    t.commit().unwrap();
    let space = model.add_space("memory", root).unwrap();
    let private = |model: &mut MemoryModel, space, start| {
        model.set_page_state(space, bytes(start, 0x1000), PageState::Private)
    };
    private(&mut model, space, 0x3000).unwrap();
    model.set_state_limit(space, 0);
    let text = save(&mut model);
    let mut restored = restore(&text);
    assert_eq!(seen(&restored.model), seen(&model));
    let space = restored.spaces[0].0;
    private(&mut restored.model, space, 0x100_0000).unwrap_err();
}
