// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Rebuilds a guest's memory on a new VM, as a reset of a confidential guest needs it.
//!
//! The VM of a confidential guest cannot be reset: the VMM makes a new one, and all that
//! belongs to the old one has to be made again. [`rebuild`] does it for memory, from the
//! memory model: memslots, their dirty logs, and which pages are private.
//!
//! | what | how |
//! | --- | --- |
//! | guest_memfds | they belong to their VM: the caller makes new ones, and the model's regions are put on them |
//! | memslots | a new [`SlotListener`] follows the model, the old one leaves |
//! | dirty logs | the model knows what is logged; the caller makes the new VM's collector, and passes it to [`Slots::with_watcher`](crate::Slots::with_watcher) |
//! | private pages | the model's record becomes the state of the new VM; their bytes are zero |
//! | accepted pages | they are revoked: a guest that starts anew has accepted nothing |
//! | DMA | listeners see the old memory removed and the new memory added; where the host memory is the same, mappings can stay |

use std::sync::Arc;

use memory_model::{
    AddListenerError, AddrRange, CommitError, Kind, Memory, MemoryModel, RegionId,
    RemoveListenerError, SpaceId, StateError, TreeError,
};

use crate::convert::{ConvertError, Engine, ModelPages, PageState};
use crate::slots::hold::HoldVcpus;
use crate::slots::listener::SlotListener;
use crate::vm::Vm;

/// The error of the closure that makes memory for the new VM.
pub type RemakeError = Box<dyn std::error::Error + Send + Sync>;

/// The reason why a guest's memory was not rebuilt.
#[derive(Debug, thiserror::Error)]
#[error("{cause}{}", rest(.not_undone))]
#[non_exhaustive]
pub struct RebuildError {
    /// The step that failed.
    #[source]
    pub cause: RebuildStep,
    /// The steps that could not be undone. If it is empty, the model and the old VM are
    /// as before, but for accepted pages, which stay revoked and shared.
    pub not_undone: Vec<RebuildStep>,
}

fn rest(not_undone: &[RebuildStep]) -> String {
    match not_undone.first() {
        Some(first) => format!("; not undone: {first}"),
        None => String::new(),
    }
}

/// A step that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RebuildStep {
    /// A region has no memory for the new VM.
    #[error("no new memory for '{region}'")]
    Remake {
        /// The region's name.
        region: String,
        /// The caller's error.
        #[source]
        source: RemakeError,
    },
    /// The memory for the new VM has another size.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// What was accepted cannot become shared.
    #[error(transparent)]
    State(#[from] StateError),
    /// The slots of the old VM could not be deleted.
    #[error("the old VM's memslots cannot be deleted")]
    Leave(#[from] RemoveListenerError),
    /// Another listener refused the new memory.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The new VM refused the slots.
    #[error("the new VM's memslots cannot be created")]
    Follow(#[from] AddListenerError),
    /// The new VM did not make the pages private.
    #[error("the new VM's private pages cannot be restored")]
    Restore(#[from] ConvertError),
}

/// A VM's memslots, as a listener of a memory model.
#[derive(Debug)]
pub struct Followed<'a, V: Vm, H: HoldVcpus> {
    /// The address space.
    pub space: SpaceId,
    /// The priority with which the listeners follow it.
    pub priority: i32,
    /// The listener of the old VM.
    pub old: &'a Arc<SlotListener<V, H>>,
    /// The listener of the new VM, which follows nothing yet.
    pub new: &'a Arc<SlotListener<V, H>>,
}

/// Rebuilds the memory of `model` on a new VM, whose pages `engine` converts. Returns the
/// number of private bytes.
///
/// `remake` gets the memory of each region with a guest_memfd, and returns the same for
/// the new VM: the same host memory with a new guest_memfd, or a new mapping of one.
///
/// A [`PrivateStays`](crate::convert::PrivateStays) of the model refuses new memory for
/// private pages of a VM whose files have their state: remove it first, and add one for
/// the new VM afterwards.
///
/// No vCPU of either VM runs. If the old VM is dead, as VMs of TDX are after a fatal
/// error, its slots can still be deleted.
///
/// # Errors
/// [`RebuildError`]. The old VM has its memory again, unless a step could not be undone.
pub fn rebuild<V, H, T>(
    model: &mut MemoryModel<T>,
    followed: &Followed<'_, V, H>,
    engine: &Engine<V>,
    remake: impl FnMut(&Memory) -> Result<Memory, RemakeError>,
) -> Result<u64, RebuildError>
where
    V: Vm + Send + Sync + 'static,
    H: HoldVcpus + Send + Sync + 'static,
    T: Clone + 'static,
{
    let Followed {
        space,
        priority,
        old,
        new,
    } = *followed;
    let done = |cause| RebuildError {
        cause,
        not_undone: Vec::new(),
    };
    let (before, after) = memory(model, remake).map_err(done)?;
    revoke_all(model, space).map_err(done)?;
    model
        .remove_listener(space, old)
        .map_err(|error| done(error.into()))?;
    let mut undo = Undo {
        model,
        followed,
        before,
        moved: false,
        follows: false,
    };
    let result = (|| -> Result<u64, RebuildStep> {
        put(undo.model, &after)?;
        undo.moved = true;
        let new = Arc::clone(new) as Arc<dyn memory_model::Listener<T>>;
        undo.model.add_listener(space, priority, new)?;
        undo.follows = true;
        let mut pages = ModelPages::new(&mut *undo.model, space);
        Ok(engine.restore(&mut pages)?)
    })();
    result.map_err(|cause| RebuildError {
        cause,
        not_undone: undo.undo(),
    })
}

/// Ends all acceptance: no guest knows of these pages any more.
fn revoke_all<T>(model: &mut MemoryModel<T>, space: SpaceId) -> Result<(), RebuildStep> {
    let Some(all) = AddrRange::new(0, 1 << 64) else {
        return Ok(());
    };
    for pages in model.revoke(space, all).iter() {
        model.set_page_state(space, pages, PageState::Shared)?;
    }
    Ok(())
}

/// Regions and their memory.
type OfRegions = Vec<(RegionId, Memory)>;

/// The memory of all regions with a guest_memfd, before and after.
fn memory<T>(
    model: &MemoryModel<T>,
    mut remake: impl FnMut(&Memory) -> Result<Memory, RemakeError>,
) -> Result<(OfRegions, OfRegions), RebuildStep> {
    let (mut before, mut after) = (Vec::new(), Vec::new());
    let tree = model.tree();
    let all = tree.roots().flat_map(|root| tree.walk(root));
    for (_, id) in all {
        let region = tree.region(id)?;
        let (Kind::Ram(memory) | Kind::Rom(memory) | Kind::RomDevice(memory)) = region.kind()
        else {
            continue;
        };
        if memory.guest_memfd().is_none() {
            continue;
        }
        let remade = remake(memory).map_err(|source| RebuildStep::Remake {
            region: region.name().to_string(),
            source,
        })?;
        before.push((id, memory.clone()));
        after.push((id, remade));
    }
    Ok((before, after))
}

/// Puts regions on this memory, in one transaction.
fn put<T: Clone>(model: &mut MemoryModel<T>, memory: &OfRegions) -> Result<(), RebuildStep> {
    let mut change = model.transaction();
    for (id, memory) in memory {
        change.set_memory(*id, memory.clone())?;
    }
    Ok(change.commit()?)
}

/// What is done so far.
struct Undo<'a, V: Vm, H: HoldVcpus, T> {
    model: &'a mut MemoryModel<T>,
    followed: &'a Followed<'a, V, H>,
    before: OfRegions,
    moved: bool,
    follows: bool,
}

impl<V, H, T> Undo<'_, V, H, T>
where
    V: Vm + Send + Sync + 'static,
    H: HoldVcpus + Send + Sync + 'static,
    T: Clone + 'static,
{
    /// Gives the old VM its memory again. Returns the steps that failed.
    fn undo(self) -> Vec<RebuildStep> {
        let Followed {
            space,
            priority,
            old,
            new,
        } = *self.followed;
        let mut failed = Vec::new();
        if self.follows {
            let removed = self.model.remove_listener(space, new);
            failed.extend(removed.err().map(RebuildStep::from));
        }
        if self.moved {
            failed.extend(put(self.model, &self.before).err());
        }
        // Without its own files the old VM would be given slots on strangers.
        if failed.is_empty() {
            let old = Arc::clone(old) as Arc<dyn memory_model::Listener<T>>;
            let added = self.model.add_listener(space, priority, old);
            failed.extend(added.err().map(RebuildStep::from));
        }
        failed
    }
}
