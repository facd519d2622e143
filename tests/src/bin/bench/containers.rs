// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Moving a container among many mapped BARs, as a transaction with a listener.

use memory_model::{Region, RegionId};

use crate::machine::{Bars, STRIDE};
use crate::moves;

/// A container with one BAR, as large as all others together. It covers them,
/// and moves by the size of one of them. Its BAR is visible between two others.
pub fn sparse(bars: u64, times: u64) {
    let mut machine = Bars::new(bars);
    let container = place(&mut machine, 0, bars, &[bars / 2]);
    to_and_fro(&mut machine, container, [STRIDE, 0], times);
}

/// A container with 16 BARs, which are visible between those in the middle. It
/// moves after all others, and back.
pub fn dense(bars: u64, times: u64) {
    let mut machine = Bars::new(bars);
    let [there, here] = [bars * STRIDE + STRIDE, bars / 2 * STRIDE];
    let container = place(&mut machine, here, 16, &Vec::from_iter(0..16));
    to_and_fro(&mut machine, container, [there, here], times);
}

/// Places a container with room for `room` BARs over the others, with BARs at
/// some of its places, each between two others. Then adds a listener.
fn place(machine: &mut Bars, at: u64, room: u64, places: &[u64]) -> RegionId {
    let mut t = machine.model.transaction();
    let size = u128::from(room * STRIDE);
    let added = t.add(Region::container("container", size));
    let container = added.expect("it has a size");
    for number in places {
        let bar = t.add(Region::mmio("bar", u128::from(STRIDE / 2)));
        let bar = bar.expect("it has a size");
        let placed = t.place(bar, container, number * STRIDE + STRIDE / 2, 0);
        placed.expect("nothing is in itself");
    }
    let placed = t.place(container, machine.window, at, 1);
    placed.expect("nothing is in itself");
    t.commit().expect("no listener refuses");
    moves::follow(machine);
    container
}

fn to_and_fro(machine: &mut Bars, container: RegionId, to: [u64; 2], times: u64) {
    for (_, to) in (0..times).zip(to.into_iter().cycle()) {
        moves::move_one_bar(&mut machine.model, container, to);
    }
}
