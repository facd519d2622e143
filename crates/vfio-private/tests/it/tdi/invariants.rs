// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What must be true of a TDI and its TSM whenever no step is under way.

use vfio_private::tdi::{Dma, Mapping, MappingState, Progress, Step, Tdi, TdiState};

use crate::tdi::world::{Request, World, page};

/// Whether the TDI knows that these addresses and bytes are not free.
fn is_held(tdi: &Tdi, mapping: Mapping) -> bool {
    let mut at = mapping.gpa().start();
    loop {
        let rest = vfio_private::AddrRange::from_bounds(at, mapping.gpa().last()).unwrap();
        let held = tdi.mappings().find(|held| held.mapping.gpa().contains(at));
        let Some(held) = held else { return false };
        let both = (
            held.mapping.clipped(rest),
            mapping.clipped(held.mapping.gpa()),
        );
        let (Some(ours), Some(_)) = both else {
            return false;
        };
        if mapping.clipped(ours.gpa()) != Some(ours) {
            return false;
        }
        if ours.gpa().last() == mapping.gpa().last() {
            return true;
        }
        at = ours.gpa().last() + 1;
    }
}

/// What is wrong.
pub fn check(world: &World) -> Result<(), String> {
    let (tdi, tsm) = (&world.tdi, &world.tsm);
    let wrong = |what: &str| Err(format!("{what}\n{tdi:?}\n{tsm:?}"));

    // 1. What the guest may still have is never free.
    let late = tsm.late().and_then(Step::mapping);
    let late_map = late.filter(|_| matches!(tsm.late(), Some(Step::Map(_) | Step::Offer(_))));
    let mapped = tsm.mapped().iter().map(|(mapping, _)| *mapping);
    let all = mapped.chain(tsm.offered().iter().copied()).chain(late_map);
    for mapping in all {
        if !is_held(tdi, mapping) {
            return wrong(&format!("{mapping} is taken for free"));
        }
    }

    // 2. What is confirmed is mapped, under the current lock.
    for held in tdi.mappings() {
        let is_confirmed = held.state == MappingState::Confirmed;
        let covered = tsm.mapped().iter().filter_map(|(mapping, lock)| {
            let part = mapping.clipped(held.mapping.gpa())?;
            (held.mapping.clipped(part.gpa()) == Some(part)).then_some((part.gpa().size(), *lock))
        });
        let covered: Vec<(u128, u64)> = covered.collect();
        let size: u128 = covered.iter().map(|(size, _)| size).sum();
        if is_confirmed && size != held.mapping.gpa().size() {
            return wrong(&format!("{held} is not mapped"));
        }
        if is_confirmed && covered.iter().any(|(_, lock)| *lock != tsm.locks()) {
            return wrong(&format!("{held} is of an earlier lock"));
        }
        let live = tdi.generation();
        if is_confirmed && live.is_some_and(|live| live != held.generation) {
            return wrong(&format!("{held} is of another lock than {live:?}"));
        }
        let dead = matches!(
            tdi.state(),
            TdiState::Unlocked | TdiState::Error | TdiState::Removed
        );
        if is_confirmed && dead {
            return wrong(&format!("{held} without a lock"));
        }
    }

    // 3. The state is the TSM's, or it is not known. An inserted device has not been reset yet.
    let inserted = (tdi.state(), tsm.state()) == (TdiState::Removed, TdiState::Unlocked);
    if tdi.state() != TdiState::Unknown && tdi.state() != tsm.state() && !inserted {
        return wrong("the state is another one");
    }
    let is_dma_wrong = match tdi.dma() {
        Dma::Blocked => tsm.dma(),
        Dma::Allowed => !tsm.dma(),
        Dma::Unknown => false,
    };
    if is_dma_wrong {
        return wrong("DMA is not what it is taken for");
    }

    // 4. A report that opens is from the current lock.
    let report = world.report.as_deref();
    if let Some((lock, report)) = report {
        if report.open(tdi).is_ok() && (*lock != tsm.locks() || !tsm.state().is_locked()) {
            return wrong("a stale report opens");
        }
    }

    // 5. Nothing that is not free can be asked for, at this address or at another one.
    for held in tdi.mappings() {
        let elsewhere = Mapping::new(held.mapping.bar(), held.mapping.bytes(), 0x9_0000).unwrap();
        for mapping in [held.mapping, elsewhere] {
            let Some((_, report)) = report else {
                continue;
            };
            if tdi.clone().accept(report, &[mapping]).is_ok() {
                return wrong(&format!("{held} can be accepted again"));
            }
        }
    }
    Ok(())
}

/// Whether a reset without a fault makes everything usable again.
pub fn recovers(world: &World) -> Result<(), String> {
    let mut world = world.clone();
    world.tsm.insert();
    let fault = |what: &str, world: &World| format!("{what}\n{:?}\n{:?}", world.tdi, world.tsm);
    let error = |e: vfio_private::tdi::TdiError| e.to_string();
    world.ask(Request::Reset).map_err(error)?;
    let (steps, progress) = world.run(&[]);
    let is_free = world.tdi.mappings().next().is_none();
    let is_reset = (world.tdi.state(), world.tdi.dma()) == (TdiState::Unlocked, Dma::Blocked);
    let is_clean = world.tsm.mapped().is_empty() && world.tsm.offered().is_empty();
    if progress != Progress::Done || !is_free || !is_reset || !is_clean {
        return Err(fault(&format!("after a reset ({steps:?})"), &world));
    }
    for request in [Request::Lock, Request::Start(&[0, 1])] {
        world.ask(request).map_err(error)?;
        let (steps, progress) = world.run(&[]);
        if progress != Progress::Done {
            return Err(fault(&format!("{request:?} ended at {steps:?}"), &world));
        }
    }
    let confirmed = |n: u64| world.tdi.occupant(page(n).gpa()).map(|held| held.state);
    match [0, 1].map(confirmed) {
        [Some(MappingState::Confirmed), Some(MappingState::Confirmed)] => Ok(()),
        _ => Err(fault("not usable after a reset", &world)),
    }
}
