// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Data → a model.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use guest_ranges::GuestMemfdSides;

use super::error::{RestoreError, WrongBacking};
use super::form::{IoEventFdState, ModelState, RegionState, SavedKind, SpaceState};
use crate::attachments::{EventFd, IoEventFd, Trigger};
use crate::backing::Memory;
use crate::ids::{RegionId, SpaceId};
use crate::logging::DirtyClients;
use crate::model::MemoryModel;
use crate::region::Region;
use crate::transaction::Transaction;
use crate::view::flat_range::Backing;

/// Supplies what cannot be data. `D` is what was saved of a region, `H` its handle.
pub trait Restore<D, H> {
    /// Why something cannot be supplied.
    type Error;

    /// The handle and the memory of a region: of the same kind and size, and with the
    /// same sides of a guest_memfd. [`Backing::Nothing`] for kinds without memory.
    ///
    /// # Errors
    /// Any error ends the restore.
    fn region(&mut self, saved: &RegionState<D>) -> Result<(H, Backing), Self::Error>;

    /// The eventfd of the ioeventfd that was attached to a region. By default there is
    /// none, and the ioeventfd is left out.
    ///
    /// # Errors
    /// Any error ends the restore.
    fn event_fd(
        &mut self,
        _region: &RegionState<D>,
        _at: u64,
        _trigger: Trigger,
    ) -> Result<Option<EventFd>, Self::Error> {
        Ok(None)
    }
}

/// A restored model.
#[derive(Debug)]
#[non_exhaustive]
pub struct Restored<H> {
    /// The model, without listeners.
    pub model: MemoryModel<H>,
    /// The ids of the regions, in the order of [`ModelState::regions`].
    pub regions: Vec<RegionId>,
    /// The address spaces with their names, in the order in which they were added.
    pub spaces: Vec<(SpaceId, String)>,
}

impl<D> ModelState<D> {
    /// Makes a model of the data.
    ///
    /// # Errors
    /// [`RestoreError`].
    pub fn restore<H, R: Restore<D, H>>(
        &self,
        with: &mut R,
    ) -> Result<Restored<H>, RestoreError<R::Error>> {
        let mut model = MemoryModel::new();
        let mut t = model.transaction();
        let mut regions = Vec::new();
        for saved in &self.regions {
            let id = add(&mut t, saved, &regions, with)?;
            attach(&mut t, id, saved, with)?;
            regions.push(id);
        }
        for place in &self.places {
            let region = find(&regions, place.region, || "a place".into())?;
            let parent = find(&regions, place.parent, || "a place".into())?;
            t.place(region, parent, place.address, place.priority)?;
        }
        t.set_global_dirty_logging(clients(self.global_logging)?);
        t.commit()?;
        let mut spaces = Vec::new();
        for saved in &self.spaces {
            let what = || alloc::format!("address space '{}'", saved.name);
            let root = find(&regions, saved.root, what)?;
            let id = model.add_space(&saved.name, root)?;
            set_pages(&mut model, id, saved)?;
            spaces.push((id, saved.name.clone()));
        }
        Ok(Restored {
            model,
            regions,
            spaces,
        })
    }
}

/// The region with a number.
fn find<E>(
    regions: &[RegionId],
    number: usize,
    what: impl FnOnce() -> String,
) -> Result<RegionId, RestoreError<E>> {
    let found = regions.get(number).copied();
    found.ok_or_else(|| RestoreError::Reference {
        what: what(),
        number,
        count: regions.len(),
    })
}

fn add<D, H, R: Restore<D, H>>(
    t: &mut Transaction<'_, H>,
    saved: &RegionState<D>,
    before: &[RegionId],
    with: &mut R,
) -> Result<RegionId, RestoreError<R::Error>> {
    let supplied = with.region(saved);
    let (handle, backing) = supplied.map_err(|source| RestoreError::Supply {
        region: saved.name.clone(),
        source,
    })?;
    let (name, size) = (saved.name.as_str(), saved.size());
    let wrong = |why| RestoreError::Backing {
        region: saved.name.clone(),
        why,
    };
    let same_size = |supplied: u64| match size == u128::from(supplied) {
        true => Ok(()),
        false => Err(wrong(WrongBacking::Size {
            saved: size,
            supplied,
        })),
    };
    let same_memory = |memory: &Memory, sides: Option<GuestMemfdSides>| {
        same_size(memory.size())?;
        match memory.guest_memfd().map(|(_, sides)| sides) == sides {
            true => Ok(()),
            false => Err(wrong(WrongBacking::Sides)),
        }
    };
    let region = match (saved.kind, backing) {
        (SavedKind::Container, Backing::Nothing) => Region::container(name, size),
        (SavedKind::Reservation, Backing::Nothing) => Region::reservation(name, size),
        (SavedKind::Mmio, Backing::Nothing) => Region::mmio(name, size),
        (SavedKind::Ram { sides }, Backing::Memory(memory)) => {
            same_memory(&memory, sides)?;
            Region::ram(name, memory)
        }
        (SavedKind::Rom { sides }, Backing::Memory(memory)) => {
            same_memory(&memory, sides)?;
            Region::rom(name, memory)
        }
        (SavedKind::RomDevice { sides }, Backing::Memory(memory)) => {
            same_memory(&memory, sides)?;
            Region::rom_device(name, memory)
        }
        (SavedKind::DeviceRam, Backing::DeviceRam(memory)) => {
            same_size(memory.size())?;
            Region::device_ram(name, memory)
        }
        (SavedKind::PrivateMmio, Backing::PrivateMmio(registers)) => {
            same_size(registers.size())?;
            Region::private_mmio(name, registers)
        }
        (SavedKind::Alias { target, offset }, Backing::Nothing) => {
            let target = find(before, target, || alloc::format!("alias '{name}'"))?;
            Region::alias(name, target, offset, size)
        }
        _ => return Err(wrong(WrongBacking::Kind)),
    };
    let region = region.with_switches(saved.switches);
    let id = t.add(region.with_handle(handle))?;
    let logging = clients(saved.logging)?;
    if !logging.is_empty() {
        t.set_dirty_logging(id, logging)?;
    }
    Ok(id)
}

fn attach<D, H, R: Restore<D, H>>(
    t: &mut Transaction<'_, H>,
    id: RegionId,
    saved: &RegionState<D>,
    with: &mut R,
) -> Result<(), RestoreError<R::Error>> {
    for range in &saved.coalesced {
        t.attach_coalesced(id, *range)?;
    }
    for event in &saved.ioeventfds {
        let trigger = trigger(event).ok_or_else(|| RestoreError::Trigger {
            region: saved.name.clone(),
            at: event.at,
            size: event.size,
        })?;
        let supplied = with.event_fd(saved, event.at, trigger);
        let supplied = supplied.map_err(|source| RestoreError::Supply {
            region: saved.name.clone(),
            source,
        })?;
        if let Some(fd) = supplied {
            let at = event.at;
            t.attach_ioeventfd(
                id,
                IoEventFd {
                    at,
                    trigger,
                    event: fd,
                },
            )?;
        }
    }
    Ok(())
}

fn clients<E>(bits: u8) -> Result<DirtyClients, RestoreError<E>> {
    DirtyClients::from_bits(bits).map_err(|bits| RestoreError::Clients { bits })
}

fn trigger(saved: &IoEventFdState) -> Option<Trigger> {
    let value = saved.value;
    Some(match saved.size {
        0 if value.is_none() => Trigger::AnyWrite,
        1 => Trigger::U8(value.map(u8::try_from).transpose().ok()?),
        2 => Trigger::U16(value.map(u16::try_from).transpose().ok()?),
        4 => Trigger::U32(value.map(u32::try_from).transpose().ok()?),
        8 => Trigger::U64(value),
        _ => return None,
    })
}

/// Sets the state of a space's pages. Private pages can be anywhere, because their memory
/// may have moved; accepted ones are private MMIO.
fn set_pages<H, E>(
    model: &mut MemoryModel<H>,
    id: SpaceId,
    saved: &SpaceState,
) -> Result<(), RestoreError<E>> {
    let wrong = |source| RestoreError::Pages {
        space: saved.name.to_string(),
        source,
    };
    // The limit may be lower than the state: it was lowered when the pages were private.
    let space = model.spaces.get_mut(id).map_err(|e| wrong(e.into()))?;
    space.private.insert_all(&saved.private);
    model.set_state_limit(id, usize::try_from(saved.state_limit).unwrap_or(usize::MAX));
    for range in saved.accepted.iter() {
        model.accept(id, range).map_err(wrong)?;
    }
    Ok(())
}
