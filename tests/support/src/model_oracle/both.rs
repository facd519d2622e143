// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One operation, made in both models.

use std::sync::Arc;

use memory_model::{
    DirtyClients, FileSlice, HostMemory, Memory, PrivateMmio, Region, Transaction, TreeError,
};

use super::attached::{self, Attached};
use super::ops::{AN_ALIAS, Full, New, Op, Pick};
use super::painted::{Node, Painted, What};

/// The size of the largest host memory.
const NO_LARGER: u64 = u64::MAX - 0xfff;

/// Makes one operation in both models, which must agree on whether it is
/// allowed.
pub fn apply(t: &mut Transaction<'_, usize>, painted: &mut Painted, op: Op) {
    let count = painted.nodes.len();
    let pick = |pick: Pick| usize::from(pick) % count;
    match op {
        Op::Add(new) => {
            add(t, painted, new);
        }
        Op::AddIn(new, parent, address, priority) => {
            if let Some(child) = add(t, painted, new) {
                place(t, painted, child, pick(parent), address, priority);
            }
        }
        Op::AddTwo([first, mut second], parent, address, [gap, skip]) => {
            let size = u64::try_from(first.size).expect("it is small");
            second.offset += size + skip;
            for (new, address) in [(first, address), (second, address + size + gap)] {
                if let Some(child) = add(t, painted, new) {
                    place(t, painted, child, pick(parent), address, 0);
                }
            }
        }
        Op::AddRow(new, parent, first, stride, count) => {
            for n in 0..u64::from(count) {
                if let Some(child) = add(t, painted, new.clone()) {
                    place(t, painted, child, pick(parent), first + n * stride, 0);
                }
            }
        }
        Op::AddFull(full) => add_full(t, painted, full, count),
        Op::Place(child, parent, address, priority) => {
            let (child, parent) = (pick(child), pick(parent));
            place(t, painted, child, parent, address, priority);
        }
        Op::Move(child, address) => {
            let child = pick_full(painted, child);
            let (id, spot) = (painted.nodes[child].id, painted.nodes[child].spot);
            assert_eq!(t.move_to(id, address).is_ok(), spot.is_some());
            if let Some(spot) = spot {
                painted.place(child, spot.parent, address, spot.priority);
            }
        }
        Op::Unplace(child) => {
            let child = &mut painted.nodes[pick(child)];
            assert_eq!(t.unplace(child.id).is_ok(), child.spot.is_some());
            child.spot = None;
        }
        Op::Enable(node, enabled) => {
            let index = pick_full(painted, node);
            let node = &mut painted.nodes[index];
            assert_eq!(t.set_enabled(node.id, enabled).is_ok(), !node.removed);
            node.switches.enabled = enabled;
        }
        Op::Readonly(node, readonly) => {
            let index = pick_full(painted, node);
            let node = &mut painted.nodes[index];
            assert_eq!(t.set_readonly(node.id, readonly).is_ok(), !node.removed);
            node.switches.readonly = readonly;
        }
        Op::DirectReads(node, direct) => {
            let node = &mut painted.nodes[pick(node)];
            if node.what == What::RomDevice || node.switches.direct_reads != direct {
                let allowed = node.what == What::RomDevice && !node.removed;
                assert_eq!(t.set_direct_reads(node.id, direct).is_ok(), allowed);
                if allowed {
                    node.switches.direct_reads = direct;
                }
            }
        }
        Op::Remove(node) => {
            let index = pick(node);
            let free = !painted.in_use(index);
            let node = &mut painted.nodes[index];
            assert_eq!(t.remove(node.id).is_ok(), free && !node.removed);
            node.removed |= free;
        }
        Op::Log(node, clients) => {
            let node = &mut painted.nodes[pick(node)];
            let allowed = node.what.loggable() && !node.removed;
            assert_eq!(t.set_dirty_logging(node.id, clients).is_ok(), allowed);
            if allowed {
                node.logging = clients;
            }
        }
        Op::LogAll(clients) => {
            t.set_global_dirty_logging(clients);
            painted.logging = clients;
        }
        Op::Attach(node, op) => {
            // Most regions accept no children, so prefer one that does.
            let takes = |n: &Node| matches!(n.what, What::Mmio | What::RomDevice);
            let takers = (0..count).filter(|&n| takes(&painted.nodes[n]));
            let takers: Vec<usize> = takers.collect();
            let index = match takers[..] {
                [] => pick(node),
                _ if node % 8 == 0 => pick(node),
                _ => takers[usize::from(node) % takers.len()],
            };
            attached::apply(t, &mut painted.nodes[index], op);
        }
        Op::Nested(ops, kept) => {
            let before = painted.clone();
            let mut part = t.nested();
            for op in ops {
                apply(&mut part, painted, op);
            }
            if kept {
                part.commit();
            } else {
                drop(part);
                painted.roll_back_to(before);
            }
        }
    }
}

/// Picks any region, and half of the time one that can show others.
fn pick_full(painted: &Painted, pick: Pick) -> usize {
    let nodes = &painted.nodes;
    let shows = |n: &usize| {
        let is_in_it = |node: &Node| !node.removed && node.spot.is_some_and(|s| s.parent == *n);
        matches!(nodes[*n].what, What::Alias { .. })
            || nodes[*n].what == What::Container && nodes.iter().any(is_in_it)
    };
    let full: Vec<usize> = (0..nodes.len()).filter(shows).collect();
    match full[..] {
        [] => usize::from(pick) % nodes.len(),
        _ if pick % 2 == 0 => usize::from(pick) % nodes.len(),
        _ => full[usize::from(pick / 2) % full.len()],
    }
}

/// Adds a container, and then places it in one of the first `count` regions.
fn add_full(t: &mut Transaction<'_, usize>, painted: &mut Painted, full: Full, count: usize) {
    let Some(container) = add(t, painted, full.container) else {
        return;
    };
    for (new, address) in full.children {
        if let Some(child) = add(t, painted, new) {
            place(t, painted, child, container, address, 0);
        }
    }
    let alias = full.alias.and_then(|mut new| {
        new.kind = AN_ALIAS;
        new.target = Pick::try_from(container).expect("there are few");
        add(t, painted, new)
    });
    let (child, parent) = (alias.unwrap_or(container), usize::from(full.parent) % count);
    place(t, painted, child, parent, full.address, full.priority);
}

fn place(
    t: &mut Transaction<'_, usize>,
    painted: &mut Painted,
    child: usize,
    parent: usize,
    address: u64,
    priority: i32,
) {
    let (c, p) = (&painted.nodes[child], &painted.nodes[parent]);
    let result = t.place(c.id, p.id, address, priority);
    if c.removed || p.removed {
        assert!(matches!(result, Err(TreeError::NoSuchRegion(_))));
    } else if c.spot.is_some() {
        assert!(matches!(result, Err(TreeError::AlreadyPlaced { .. })));
    } else if painted.reaches(child, parent) {
        assert!(matches!(result, Err(TreeError::Cycle { .. })));
    } else {
        result.expect("nothing forbids it");
        painted.place(child, parent, address, priority);
    }
}

/// Adds a region and returns its number.
pub fn add(t: &mut Transaction<'_, usize>, painted: &mut Painted, new: New) -> Option<usize> {
    let New {
        kind,
        size,
        switches,
        target,
        offset,
    } = new;
    let index = painted.nodes.len();
    let target = usize::from(target) % index.max(1);
    // As many whole pages as fit after the first page.
    let bytes = u64::try_from(size).map_or(NO_LARGER, |size| size.min(NO_LARGER));
    // SAFETY: no guest or device runs on these models, so nothing accesses it.
    let host = unsafe { HostMemory::new(0x1000, bytes, Arc::new(())) }.unwrap();
    let memory = Memory::host_only(host.clone());
    let file = FileSlice::new(Arc::new(std::io::stdin()), 0, bytes).unwrap();
    let (what, region) = match kind {
        0..=2 => (What::Container, Region::container("c", size)),
        3 => (What::Reservation, Region::reservation("reservation", size)),
        4 | 5 => (What::Mmio, Region::mmio("mmio", size)),
        6 => (What::Ram, Region::ram("ram", memory)),
        7 => (What::Rom, Region::rom("rom", memory)),
        8 => (What::RomDevice, Region::rom_device("flash", memory)),
        9 => (What::DeviceRam, Region::device_ram("device", host)),
        10..=12 => (
            What::PrivateMmio,
            Region::private_mmio("bar", PrivateMmio::new(file)),
        ),
        _ => (
            What::Alias { target, offset },
            Region::alias("alias", painted.nodes[target].id, offset, size),
        ),
    };
    let size = region.size();
    let added = t.add(region.with_switches(switches).with_handle(index));
    let target_removed = matches!(what, What::Alias { .. }) && painted.nodes[target].removed;
    let Ok(id) = added else {
        assert!(target_removed, "{added:?}");
        return None;
    };
    assert!(!target_removed);
    painted.nodes.push(Node {
        id,
        what,
        size,
        switches,
        logging: DirtyClients::NONE,
        attached: Attached::default(),
        spot: None,
        removed: false,
    });
    Some(index)
}
