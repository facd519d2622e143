// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! An assembled machine: model, memslots and devices, ready to run.
//!
//! `region_builder` builds the model's regions, and `bar_regions` those of a
//! BAR. While the guest runs, `mmio` answers its trapped accesses, and
//! [`actions`] does what the script tells the VMM to do.

pub mod actions;
mod bar_regions;
pub mod exits;
pub mod handle;
pub mod host_mapping;
mod mmio;
mod region_builder;
mod stub_region;
pub mod tdi;

use std::sync::Arc;

use kvm_slots::convert::{Engine, Home};
use kvm_slots::{Capabilities, Errno, SlotListener, Slots, Unsupported, VcpusStopped};
use memory_model::{
    AddListenerError, AddSpaceError, AddrRange, CommitError, MemoryModel, RegionId, SpaceId,
    TreeError,
};

use memory_map::{Map, SlotRow};

use crate::backend::Platform;
use crate::board::exits::Exit;
use crate::board::handle::Handle;
use crate::board::region_builder::RegionBuilder;
pub use crate::board::region_builder::RegionError;
use crate::board::stub_region::StubRegion;
use crate::board::tdi::TdiDevice;
use crate::devices::emulated::Device;
use crate::guest::stub::Stub;
use crate::machine::{Access, Machine};

/// A machine that can run.
#[derive(Debug)]
pub struct Board<V: kvm_slots::Vm> {
    /// The region tree and its view.
    pub model: MemoryModel<Handle>,
    /// The guest's memory.
    pub space: SpaceId,
    /// The memslots, updated with every change of the view.
    pub slots: Arc<SlotListener<V>>,
    /// Converts pages between private and shared.
    pub engine: Engine<V>,
    /// Whether pages of this VM can be private.
    pub private_pages: bool,
    /// The model's region for each of the machine's.
    pub regions: Vec<RegionId>,
    /// For each of the machine's regions: why this kernel does not support it.
    pub refused: Vec<Option<Unsupported>>,
    /// The devices.
    pub devices: Vec<Device>,
    /// The TEE device interfaces.
    pub tdis: Vec<TdiDevice>,
    /// For each of the machine's regions: the interface that it is a BAR of.
    pub tdi_of: Vec<Option<usize>>,
    /// The exits since the list was last taken.
    pub exits: Vec<Exit>,
    /// The granularity of memslots.
    pub(crate) page_size: u64,
    /// As [`Platform::splits_accesses`].
    pub(crate) splits_accesses: bool,
}

/// Why a machine could not be assembled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BoardError {
    /// A region could not be built.
    #[error("region '{region}'")]
    Region {
        /// The region's name.
        region: String,
        /// Why.
        source: RegionError,
    },
    /// The region tree does not allow it.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The regions cannot be rendered.
    #[error(transparent)]
    Space(#[from] AddSpaceError),
    /// The regions cannot change.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// It is unknown where the state of pages is.
    #[error("KVM does not tell where private pages have their state")]
    PageState(#[source] Errno),
    /// KVM refused the memslots.
    #[error("the memslots cannot be set up")]
    Slots(#[source] AddListenerError),
    /// An access is beyond the processor's physical addresses.
    #[error(
        "the access to {gpa:#x} is out of reach: guest-physical addresses have {bits} bits here"
    )]
    OutOfReach {
        /// The address.
        gpa: u64,
        /// The width of addresses.
        bits: u32,
    },
    /// There is no free room for the guest's code.
    #[error("no {size:#x} free bytes are left for the guest's code")]
    NoRoom {
        /// How many bytes it needs.
        size: u64,
    },
}

impl<V: kvm_slots::Vm + Clone + Send + Sync + 'static> Board<V> {
    /// Assembles `machine` on `platform`, to show its map.
    ///
    /// # Errors
    /// [`BoardError`].
    pub fn new<P: Platform<Vm = V>>(machine: &Machine, platform: &P) -> Result<Self, BoardError> {
        let home = probe_home(platform)?;
        let (model, space, built) = assemble(machine, platform, home)?;
        Self::follow(platform, home, model, space, built)
    }

    /// Assembles `machine` on `platform`, with the guest's own code in its memory.
    ///
    /// # Errors
    /// [`BoardError`].
    pub fn with_guest<P: Platform<Vm = V>>(
        machine: &Machine,
        platform: &P,
        script: &[Access],
    ) -> Result<(Self, Stub), BoardError> {
        let home = probe_home(platform)?;
        let (mut model, space, built) = assemble(machine, platform, home)?;
        let bits = platform.physical_bits();
        let hosts: Vec<AddrRange> = machine.host_accesses().collect();
        let guest = StubRegion {
            code: platform.code(),
            page_size: Capabilities::probe(platform.vm()).page_size.bytes(),
            bits,
            accesses: script,
            hosts: &hosts,
        };
        let stub = guest.add(&mut model, space, built.regions[0])?;
        Ok((Self::follow(platform, home, model, space, built)?, stub))
    }

    /// Registers the memslots as a listener of the model.
    fn follow<P: Platform<Vm = V>>(
        platform: &P,
        home: Home,
        mut model: MemoryModel<Handle>,
        space: SpaceId,
        built: BuiltRegions,
    ) -> Result<Self, BoardError> {
        // Every host address in the model comes from a `HostMapping`, in
        // `region_builder` or in `stub_region`, and that mapping travels along as its
        // owner.
        // SAFETY: a `HostMapping` is readable and writable until it is dropped,
        // and offers volatile access only. The one vCPU runs on the thread that
        // commits, so that no vCPU runs during a commit.
        let slots = unsafe { Slots::new(platform.vm().clone(), platform.abi()) };
        let slots = Arc::new(SlotListener::new(slots, VcpusStopped).keeping_latest_plan());
        let mut engine = Engine::new(platform.vm().clone(), home);
        engine.add_listener(slots.clone());
        model
            .add_listener(space, 0, slots.clone())
            .map_err(BoardError::Slots)?;
        let capabilities = Capabilities::probe(platform.vm());
        Ok(Self {
            model,
            space,
            slots,
            engine,
            private_pages: home.has_private_pages(),
            regions: built.regions,
            refused: built.refused,
            devices: built.devices,
            tdis: built.tdis,
            tdi_of: built.tdi_of,
            exits: Vec::new(),
            page_size: capabilities.page_size.bytes(),
            splits_accesses: platform.splits_accesses(),
        })
    }

    /// The current memory map of the board, for the machine called `machine`.
    pub fn map(&self, machine: &str) -> Map {
        let map = Map::of(&self.model, self.space, machine, |region| {
            note(region.handle())
        });
        map.with_slots(self.slots.table().slots().map(SlotRow::from))
    }
}

impl<V: kvm_slots::Vm> Board<V> {
    /// Why this kernel does not support the regions at these addresses, if so.
    pub(crate) fn refusal(&self, range: AddrRange) -> Option<Unsupported> {
        let view = self.model.view(self.space);
        let mut runs = view.intersecting(range);
        runs.find_map(|run| run.region().handle().refused)
    }

    /// The address of a region in the address space, if it is placed there. `offset` is its
    /// offset in its parent, or `None` for the current one.
    pub(crate) fn address(&self, id: RegionId, offset: Option<u64>) -> Option<u64> {
        if id == self.regions[0] {
            return Some(0);
        }
        let place = self.model.tree().place(id).ok().flatten()?;
        let parent = self.address(place.parent, None)?;
        parent.checked_add(offset.unwrap_or(place.address))
    }

    /// The region at an address and the offset in it, for reports.
    pub(crate) fn region_name(&self, gpa: u64) -> String {
        let view = self.model.view(self.space);
        let found = view
            .find(gpa)
            .and_then(|run| Some((run, run.offset_of(gpa)?)));
        match found {
            Some((run, offset)) => format!("{} + {offset:#x}", run.region().name()),
            None => "nothing".into(),
        }
    }
}

/// Why this kernel does not support a region, or why a piece of a BAR is what it is.
fn note(handle: &Handle) -> String {
    handle
        .refused
        .map_or_else(|| handle.note.clone(), |why| why.to_string())
}

/// The machine's regions in the model.
#[derive(Debug, Default)]
struct BuiltRegions {
    regions: Vec<RegionId>,
    refused: Vec<Option<Unsupported>>,
    devices: Vec<Device>,
    tdis: Vec<TdiDevice>,
    tdi_of: Vec<Option<usize>>,
}

fn probe_home<P: Platform>(platform: &P) -> Result<Home, BoardError> {
    Home::probe(platform.vm()).map_err(BoardError::PageState)
}

/// A model of the machine, and the address space that shows all of it.
fn assemble<P: Platform>(
    machine: &Machine,
    platform: &P,
    home: Home,
) -> Result<(MemoryModel<Handle>, SpaceId, BuiltRegions), BoardError> {
    let capabilities = Capabilities::probe(platform.vm());
    let mut model = MemoryModel::new();
    let built = build(&mut model, machine, platform, home, &capabilities)?;
    let space = model.add_space("memory", built.regions[0])?;
    Ok((model, space, built))
}

/// Adds and places all regions in one transaction.
fn build<P: Platform>(
    model: &mut MemoryModel<Handle>,
    machine: &Machine,
    platform: &P,
    home: Home,
    capabilities: &Capabilities,
) -> Result<BuiltRegions, BoardError> {
    let (tdis, tdi_of) = tdi::devices(machine);
    let mut all = BuiltRegions {
        tdis,
        tdi_of,
        ..BuiltRegions::default()
    };
    let mut transaction = model.transaction();
    for (number, region) in machine.regions.iter().enumerate() {
        let builder = RegionBuilder {
            platform,
            home,
            capabilities,
            regions: &all.regions,
            devices: &mut all.devices,
            tdi: all.tdi_of[number],
        };
        let built = builder.build(region).map_err(|source| BoardError::Region {
            region: region.name.clone(),
            source,
        })?;
        let id = transaction.add(built.region)?;
        let mut refused = transaction.tree().region(id)?.handle().refused;
        for (offset, piece) in built.pieces {
            refused = refused.or(piece.handle().refused);
            let piece = transaction.add(piece)?;
            transaction.place(piece, id, offset, 0)?;
        }
        if let Some(place) = region.place {
            transaction.place(id, all.regions[place.parent], place.at, place.priority)?;
        }
        transaction.set_enabled(id, region.enabled)?;
        transaction.set_readonly(id, region.readonly)?;
        all.regions.push(id);
        all.refused.push(refused);
    }
    transaction.commit()?;
    Ok(all)
}
